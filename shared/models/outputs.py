"""Predictions of a study's trained models for clips.

The code is the same at a site that tests them, at their export and at their use. So a delivered model decides as the
study's own evaluation did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model
from moretta.shared.models.fusion_gate import Prediction, gate_input
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Weights = Mapping[str, Array]
Rows = dict[str, Float64]
"""Clip -> probability of each class."""
Inputs = Mapping[Modality, tuple[Sequence[str], Float32]]
"""The clips that have a modality, and what its model takes of them, float32 [clips, ...]."""
_LEAST_LOG = -1e4
"""Smallest logarithm of a probability, so that further results stay finite."""
_LEAST = 1e-37
"""Probability whose logarithm float32 still holds."""


def outputs_of(study: Study, models: Mapping[ModelKind, Weights], inputs: Inputs) -> dict[str, Rows]:
    """Probabilities by `voice`, `face`, `fused` and `learned`, as far as there are models and clips.

    The vote, `fused`, is a weighted mean of probabilities; a clip with one modality alone is decided by that one.

    Raises:
        RefusedError: weights that are not those of the study's models.
    """
    outputs: dict[str, Rows] = {}
    for modality in study.modalities:
        if modality in models and modality in inputs:
            clips, features = inputs[modality]
            found = _probabilities(study_model(study, modality), models[modality], features)
            outputs[modality] = dict(zip(clips, found, strict=True))
    if "voice" in models and "face" in models:
        there = tuple(sorted({clip for rows in outputs.values() for clip in rows}))
        alone = dict(outputs)
        outputs["fused"] = _vote(alone, there, study.voice.weight)
        if "fusion" in models:
            outputs["learned"] = _gated(alone, there, study, models["fusion"])
    return outputs


def log_probabilities(model: EmotionModel, weights: Weights, features: Float32) -> Array:
    """float32 [clips, ...] -> float32 [clips, classes], finite."""
    network = model.build(features.shape[1:])
    network.load_state_dict(checked_weights(model, weights, features.shape[1:]))
    network.eval()
    with torch.inference_mode():
        found = np.asarray(torch.log_softmax(network(torch.from_numpy(features)), dim=1))
    sure = np.isfinite(found).all(axis=1, keepdims=True)
    alike = -math.log(model.classes)  # of a clip of which a model says nothing finite
    return np.where(sure, np.clip(found, _LEAST_LOG, 0.0), alike).astype(np.float32)


def _vote(outputs: Mapping[str, Rows], clips: Sequence[str], share: float) -> Rows:
    """Weights count between two modalities only: a clip that has one keeps its probabilities, whatever the weight."""
    weights, fused = {"voice": share, "face": 1.0 - share}, {}
    for clip in clips:
        there = {m: rows[clip] for m, rows in outputs.items() if clip in rows}
        parts = [row if len(there) == 1 else weights[m] * row for m, row in there.items()]
        fused[clip] = np.asarray(np.sum(parts, axis=0), np.float64)
    return fused


def _gated(outputs: Mapping[str, Rows], clips: tuple[str, ...], study: Study, weights: Weights) -> Rows:
    predictions = dict[Modality, Prediction]()
    for modality in study.modalities:
        if rows := outputs.get(modality):
            logs = np.log(np.maximum(np.stack(list(rows.values())), _LEAST)).astype(np.float32)
            predictions[modality] = Prediction(tuple(rows), logs)
    if not clips:
        return {}
    found = _probabilities(study_model(study, "fusion"), weights, gate_input(clips, predictions))
    return dict(zip(clips, found, strict=True))


def _probabilities(model: EmotionModel, weights: Weights, features: Float32) -> Float64:
    return np.exp(log_probabilities(model, weights, features).astype(np.float64))
