"""A site tests the global models on its held-out speakers, and releases counts by pseudonymous speaker only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moretta.client.settings import SiteSettings
from moretta.client.training.data import held_out_mask, released_features
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.labels import original_columns
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import checked_weights, study_model
from moretta.shared.models.outputs import Rows, Weights, outputs_of
from moretta.shared.models.reliability import reliability_counts
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Counts = dict[str, Int64]
"""Pseudonymous speaker -> confusion counts [true, predicted]."""


class Evaluation(NamedTuple):
    """A site's counts for the models, by output."""

    counts: dict[str, Counts]
    """Also by output suffixed `/3`: on the classes of the original study alone, if the study has them."""
    reliability: dict[str, Int64]
    """Counts of all clips together by output, see `reliability_counts`."""


def evaluate_site(settings: SiteSettings, study: Study, models: Mapping[ModelKind, Weights]) -> Evaluation:
    """Test `voice`, `face`, `fused` and `learned`, as `outputs_of` has them, on this site's held-out clips."""
    for kind, weights in models.items():  # by themselves, before a clip is looked at
        checked_weights(study_model(study, kind), weights)
    inputs: dict[Modality, tuple[list[str], Float32]] = {}
    truth: dict[str, tuple[str, int]] = {}  # whose a clip is, and its class
    for modality in study.modalities:
        if modality not in models:
            continue
        data = released_features(settings, study, modality)
        keep, named = held_out_mask(settings, study, data.speakers), settings.names(study).released
        if keep.any():
            rows = np.flatnonzero(keep)
            inputs[modality] = [data.clips[i] for i in rows], data.features[keep]
            truth |= {data.clips[i]: (named(data.speakers[i]), int(data.labels[i])) for i in rows}
    outputs = outputs_of(study, models, inputs)
    counts: dict[str, Counts] = {}
    reliability: dict[str, Int64] = {}
    for output, rows_of in outputs.items():
        counts[output] = _count(rows_of, truth, tuple(range(len(study.classes))))
        if three := original_columns(study.classes):
            counts[f"{output}/3"] = _count(rows_of, truth, three)
        clips = sorted(rows_of)
        probabilities = np.stack([rows_of[clip] for clip in clips]) if clips else np.zeros((0, 2))
        reliability[output] = reliability_counts(probabilities, np.array([truth[clip][1] for clip in clips], np.int64))
    return Evaluation(counts, reliability)


def _count(scores: Rows, truth: dict[str, tuple[str, int]], classes: tuple[int, ...]) -> Counts:
    """Confusion counts over the clips whose class is in `classes`, deciding among these alone."""
    counts: Counts = {}
    for clip, row in sorted(scores.items()):
        speaker, label = truth[clip]
        if label in classes:
            table = counts.setdefault(speaker, np.zeros((len(classes), len(classes)), np.int64))
            table[classes.index(label), int(row[list(classes)].argmax())] += 1
    return counts
