"""What the global voice and face models say of a site's released clips: what fusion learns on, and is tested on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.client.settings import SiteSettings
from moretta.client.training.data import ReleasedFeatures, released_features
from moretta.shared.core.errors import RefusedError
from moretta.shared.core.terms import Modality
from moretta.shared.data.clip_names import EMOTIONS
from moretta.shared.models.emotion import EmotionModel, emotion_model
from moretta.shared.models.fusion_gate import Prediction, gate_input
from moretta.shared.models.global_weights import checked_weights
from moretta.shared.study.schema import Study

Weights = Mapping[str, npt.NDArray[Any]]
Models = Mapping[Modality, Weights]


_LEAST_LOG = -1e4
"""Of a probability: what is computed with it further stays finite."""
_UNSURE = -math.log(len(EMOTIONS))
"""Of a clip of which a model says nothing finite: every class alike."""


def log_probabilities(model: EmotionModel, weights: Weights, features: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """float32 [clips, ...] -> float32 [clips, classes], finite.

    Raises:
        RefusedError: the weights cannot be this model's.
    """
    import torch

    network = model.build(features.shape[1:])
    network.load_state_dict(checked_weights(model, weights, features.shape[1:]))
    network.eval()
    with torch.inference_mode():
        found = np.asarray(torch.log_softmax(network(torch.from_numpy(features)), dim=1))
    sure = np.isfinite(found).all(axis=1, keepdims=True)
    return np.where(sure, np.clip(found, _LEAST_LOG, 0.0), _UNSURE).astype(np.float32)


def predictions_on_releases(settings: SiteSettings, study: Study, models: Models) -> ReleasedFeatures:
    """Inputs of the fusion for every released clip that has a modality, in order of pseudonyms.

    Raises:
        RefusedError: a model is missing.
        RunError: nothing was released yet.
    """
    if set(models) != set(study.modalities):
        raise RefusedError("a fusion without the models whose opinions it weighs", expected="voice and face")
    predictions: dict[Modality, Prediction] = {}
    known: dict[str, tuple[str, int]] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        if not data.clips:
            continue
        model = emotion_model(modality, study.model_of(modality))
        predictions[modality] = Prediction(data.clips, log_probabilities(model, models[modality], data.features))
        known |= dict(zip(data.clips, zip(data.speakers, data.labels.tolist(), strict=True), strict=True))
    clips = tuple(sorted(known))
    return ReleasedFeatures(
        features=gate_input(clips, predictions),
        labels=np.array([known[clip][1] for clip in clips], np.int64),
        speakers=tuple(known[clip][0] for clip in clips),
        clips=clips,
    )
