"""A site tests the global models on its held-out speakers, and releases counts by pseudonymous speaker only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moretta.client.settings import SiteSettings
from moretta.client.training.data import held_out_mask, released_features
from moretta.client.training.training_sets import Weights, log_probabilities
from moretta.shared.core.labels import original_columns
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model
from moretta.shared.models.fusion_gate import Prediction, gate_input
from moretta.shared.models.reliability import reliability_counts
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Output = Literal["voice", "face", "fused", "learned"]
Counts = dict[str, npt.NDArray[np.int64]]
"""Pseudonymous speaker -> confusion counts [true, predicted]."""
Rows = dict[str, npt.NDArray[np.float64]]
"""Clip -> probability of each class."""


class Evaluation(NamedTuple):
    """A site's counts for the models, by output."""

    counts: dict[str, Counts]
    """Also by output suffixed `/3`: on the classes of the original study alone, if the study has them."""
    reliability: dict[str, npt.NDArray[np.int64]]
    """Of all clips together, as `reliability_counts` has them."""


class _Tested(NamedTuple):
    """Held-out clips: their probabilities by output, and whose they are with the true class."""

    rows: dict[str, Rows]
    truth: dict[str, tuple[str, int]]


def evaluate_site(settings: SiteSettings, study: Study, models: Mapping[ModelKind, Weights]) -> Evaluation:
    """Test `voice`, `face`, `fused` and `learned`, as far as there are models, on this site's held-out clips.

    The vote, `fused`, is a weighted mean of probabilities; a clip with one modality alone is decided by that one.
    """
    for kind, weights in models.items():  # by themselves, before a clip is looked at
        checked_weights(study_model(study, kind), weights)
    tested = _Tested({}, {})
    for modality in study.modalities:
        if modality in models:
            _add(tested, settings, study, modality, models[modality])
    if "voice" in models and "face" in models:
        _vote(tested, study.voice.weight)
        if "fusion" in models:
            tested.rows["learned"] = _gated(tested, study, models["fusion"])
    counts: dict[str, Counts] = {}
    for output, by_clip in tested.rows.items():
        counts[output] = _count(by_clip, tested.truth, tuple(range(len(study.classes))))
        if three := original_columns(study.classes):
            counts[f"{output}/3"] = _count(by_clip, tested.truth, three)
    return Evaluation(counts, {output: _reliability(rows, tested.truth) for output, rows in tested.rows.items()})


def _add(tested: _Tested, settings: SiteSettings, study: Study, modality: Modality, weights: Weights) -> None:
    data = released_features(settings, study, modality)
    keep = held_out_mask(settings, study, data.speakers)
    if not keep.any():
        return
    scores = _predict(study_model(study, modality), weights, data.features[keep])
    rows, named = np.flatnonzero(keep), settings.names(study).released
    tested.rows[modality] = {data.clips[i]: row for i, row in zip(rows, scores, strict=True)}
    tested.truth.update({data.clips[i]: (named(data.speakers[i]), int(data.labels[i])) for i in rows})


def _vote(tested: _Tested, share: float) -> None:
    """Weights count between two modalities only: a clip that has one keeps its probabilities, whatever the weight."""
    weights = {"voice": share, "face": 1.0 - share}
    tested.rows["fused"] = {}
    for clip in tested.truth:
        there = {m: rows[clip] for m, rows in tested.rows.items() if m in weights and clip in rows}
        alone = len(there) == 1
        parts = [row if alone else weights[m] * row for m, row in there.items()]
        tested.rows["fused"][clip] = np.asarray(np.sum(parts, axis=0), np.float64)


def _gated(tested: _Tested, study: Study, weights: Weights) -> Rows:
    clips = tuple(sorted(tested.truth))
    predictions = {
        modality: Prediction(tuple(rows), np.log(np.maximum(np.stack(list(rows.values())), _LEAST)).astype(np.float32))
        for modality, rows in tested.rows.items()
        if modality in study.modalities and rows
    }
    if not clips:
        return {}
    found = _predict(study_model(study, "fusion"), weights, gate_input(clips, predictions))
    return dict(zip(clips, found, strict=True))


_LEAST = 1e-37
"""Probability whose logarithm float32 still holds."""


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


def _reliability(rows: Rows, truth: dict[str, tuple[str, int]]) -> npt.NDArray[np.int64]:
    clips = sorted(rows)
    labels = np.array([truth[clip][1] for clip in clips], np.int64)
    return reliability_counts(np.stack([rows[clip] for clip in clips]) if clips else np.zeros((0, 2)), labels)
