"""Which of a site's released clips a model learns on, and the inputs of a fusion: predictions of finished models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moretta.client.accounting.account import Cohort
from moretta.client.accounting.planning import cohorts
from moretta.client.settings import SiteSettings
from moretta.client.training.data import TrainingSet, held_out_mask, released_features
from moretta.shared.core.errors import RefusedError
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model
from moretta.shared.models.fusion_gate import Prediction, gate_input, hide_some
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Weights = Mapping[str, npt.NDArray[Any]]
Models = Mapping[Modality, Weights]
_LEAST_LOG = -1e4
"""Of a probability: what is computed with it further stays finite."""


def training_set(settings: SiteSettings, study: Study, modality: Modality) -> TrainingSet:
    """Released clips of one modality, of speakers who are not held out, that its model learns on."""
    return _learned(settings, study, modality, released_features(settings, study, modality))


def fusion_set(settings: SiteSettings, study: Study, models: Models, chances: NoiseSource) -> TrainingSet:
    """The same for the fusion, with a modality hidden here and there: it must work with one modality."""
    chosen = _learned(settings, study, "fusion", predictions_on_releases(settings, study, models))
    hidden = hide_some(chosen.features, chances.uniform((len(chosen),)), study.fusion.dropout)
    return TrainingSet(hidden, chosen.labels, chosen.speakers, chosen.clips)


def training_clips(settings: SiteSettings, study: Study) -> dict[str, int]:
    """The number of clips on which each model of a study is trained at this site."""
    pairs = {
        modality: [(speaker, clip) for speaker, clips in cohort.speakers for clip in clips]
        for modality, cohort in whole_cohorts(settings, study).items()
    }
    return {kind: cohort.clips for kind, cohort in cohorts(study, pairs, settings.names(study).released).items()}


def whole_cohorts(settings: SiteSettings, study: Study) -> dict[ModelKind, Cohort]:
    """By modality, everybody on whom any of the study's models is trained."""
    found: dict[ModelKind, Cohort] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        found[modality] = data.chosen(~held_out_mask(settings, study, data.speakers)).cohort
    return found


def log_probabilities(model: EmotionModel, weights: Weights, features: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """float32 [clips, ...] -> float32 [clips, classes], finite."""
    network = model.build(features.shape[1:])
    network.load_state_dict(checked_weights(model, weights, features.shape[1:]))
    network.eval()
    with torch.inference_mode():
        found = np.asarray(torch.log_softmax(network(torch.from_numpy(features)), dim=1))
    sure = np.isfinite(found).all(axis=1, keepdims=True)
    alike = -math.log(model.classes)  # of a clip of which a model says nothing finite
    return np.where(sure, np.clip(found, _LEAST_LOG, 0.0), alike).astype(np.float32)


def predictions_on_releases(settings: SiteSettings, study: Study, models: Models) -> TrainingSet:
    """Inputs of the fusion for every released clip that has a modality, in order of pseudonyms."""
    if set(models) != set(study.modalities):
        raise RefusedError("a fusion without the models whose predictions it weighs", expected="voice and face")
    predictions: dict[Modality, Prediction] = {}
    known: dict[str, tuple[str, int]] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        if not data.clips:
            continue
        model = study_model(study, modality)
        predictions[modality] = Prediction(data.clips, log_probabilities(model, models[modality], data.features))
        known |= dict(zip(data.clips, zip(data.speakers, data.labels.tolist(), strict=True), strict=True))
    clips = tuple(sorted(known))
    return TrainingSet(
        features=gate_input(clips, predictions),
        labels=np.array([known[clip][1] for clip in clips], np.int64),
        speakers=tuple(known[clip][0] for clip in clips),
        clips=clips,
    )


def _learned(settings: SiteSettings, study: Study, kind: ModelKind, data: TrainingSet) -> TrainingSet:
    named = settings.names(study).released
    pairs = zip(data.speakers, data.clips, strict=True)
    kept = np.array([study.learns(kind, speaker=named(speaker), clip=named(clip)) for speaker, clip in pairs], bool)
    return data.chosen(~held_out_mask(settings, study, data.speakers) & kept)
