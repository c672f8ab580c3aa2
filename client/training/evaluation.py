"""A site tests the global models on its held-out speakers, and releases counts by pseudonymous speaker only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moretta.client.settings import SiteSettings
from moretta.client.training.data import Weights, held_out_mask, log_probabilities, released_features
from moretta.shared.core.labels import original_columns
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model
from moretta.shared.models.fusion_gate import Prediction, gate_input
from moretta.shared.models.reliability import reliability_counts
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Counts = dict[str, npt.NDArray[np.int64]]
"""Pseudonymous speaker -> confusion counts [true, predicted]."""
Rows = dict[str, npt.NDArray[np.float64]]
"""Clip -> probability of each class."""
_LEAST = 1e-37
"""Probability whose logarithm float32 still holds."""


class Evaluation(NamedTuple):
    """A site's counts for the models, by output."""

    counts: dict[str, Counts]
    """Also by output suffixed `/3`: on the classes of the original study alone, if the study has them."""
    reliability: dict[str, npt.NDArray[np.int64]]
    """Of all clips together, as `reliability_counts` has them."""


def evaluate_site(settings: SiteSettings, study: Study, models: Mapping[ModelKind, Weights]) -> Evaluation:
    """Test `voice`, `face`, `fused` and `learned`, as far as there are models, on this site's held-out clips.

    The vote, `fused`, is a weighted mean of probabilities; a clip with one modality alone is decided by that one.
    """
    for kind, weights in models.items():  # by themselves, before a clip is looked at
        checked_weights(study_model(study, kind), weights)
    outputs: dict[str, Rows] = {}
    truth: dict[str, tuple[str, int]] = {}  # whose a clip is, and its class
    for modality in study.modalities:
        if modality not in models:
            continue
        data = released_features(settings, study, modality)
        keep, named = held_out_mask(settings, study, data.speakers), settings.names(study).released
        if keep.any():
            scores = _predict(study_model(study, modality), models[modality], data.features[keep])
            rows = np.flatnonzero(keep)
            outputs[modality] = {data.clips[i]: row for i, row in zip(rows, scores, strict=True)}
            truth |= {data.clips[i]: (named(data.speakers[i]), int(data.labels[i])) for i in rows}
    if "voice" in models and "face" in models:
        outputs["fused"] = _vote(outputs, truth, study.voice.weight)
        if "fusion" in models:
            outputs["learned"] = _gated(outputs, truth, study, models["fusion"])
    counts: dict[str, Counts] = {}
    reliability: dict[str, npt.NDArray[np.int64]] = {}
    for output, rows_of in outputs.items():
        counts[output] = _count(rows_of, truth, tuple(range(len(study.classes))))
        if three := original_columns(study.classes):
            counts[f"{output}/3"] = _count(rows_of, truth, three)
        clips = sorted(rows_of)
        probabilities = np.stack([rows_of[clip] for clip in clips]) if clips else np.zeros((0, 2))
        reliability[output] = reliability_counts(probabilities, np.array([truth[clip][1] for clip in clips], np.int64))
    return Evaluation(counts, reliability)


def _vote(outputs: dict[str, Rows], truth: Iterable[str], share: float) -> Rows:
    """Weights count between two modalities only: a clip that has one keeps its probabilities, whatever the weight."""
    weights, fused = {"voice": share, "face": 1.0 - share}, {}
    for clip in truth:
        there = {m: rows[clip] for m, rows in outputs.items() if m in weights and clip in rows}
        parts = [row if len(there) == 1 else weights[m] * row for m, row in there.items()]
        fused[clip] = np.asarray(np.sum(parts, axis=0), np.float64)
    return fused


def _gated(outputs: dict[str, Rows], truth: Iterable[str], study: Study, weights: Weights) -> Rows:
    clips, predictions = tuple(sorted(truth)), dict[Modality, Prediction]()
    for modality in study.modalities:
        if rows := outputs.get(modality):
            logs = np.log(np.maximum(np.stack(list(rows.values())), _LEAST)).astype(np.float32)
            predictions[modality] = Prediction(tuple(rows), logs)
    if not clips:
        return {}
    found = _predict(study_model(study, "fusion"), weights, gate_input(clips, predictions))
    return dict(zip(clips, found, strict=True))


def _predict(model: EmotionModel, weights: Weights, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.exp(log_probabilities(model, weights, features).astype(np.float64))


def _count(scores: Rows, truth: dict[str, tuple[str, int]], classes: tuple[int, ...]) -> Counts:
    """Confusion counts over the clips whose class is in `classes`, deciding among these alone."""
    counts: Counts = {}
    for clip, row in sorted(scores.items()):
        speaker, label = truth[clip]
        if label in classes:
            table = counts.setdefault(speaker, np.zeros((len(classes), len(classes)), np.int64))
            table[classes.index(label), int(row[list(classes)].argmax())] += 1
    return counts
