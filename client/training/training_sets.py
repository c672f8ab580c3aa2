"""Which of a site's released clips a model learns on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.client.accounting.account import Cohort
from moretta.client.settings import SiteSettings
from moretta.client.training.data import ReleasedFeatures, held_out_mask, released_features
from moretta.client.training.local_training import TrainingSet
from moretta.client.training.release_predictions import Models, predictions_on_releases
from moretta.client.training.training_plan import cohorts
from moretta.shared.core.terms import Modality
from moretta.shared.models.fusion_gate import hide_some
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study


def training_set(settings: SiteSettings, study: Study, modality: Modality) -> TrainingSet:
    """Released clips of one modality, of speakers who are not held out, that its model learns on."""
    data = released_features(settings, study, modality)
    return data.chosen(_trained_on(settings, study, modality, data))


def fusion_set(settings: SiteSettings, study: Study, models: Models, chances: NoiseSource) -> TrainingSet:
    """The same for the fusion, with a modality hidden here and there: it must know how to do without."""
    data = predictions_on_releases(settings, study, models)
    chosen = data.chosen(_trained_on(settings, study, "fusion", data))
    hidden = hide_some(chosen.features, chances.uniform((len(chosen),)), study.fusion.dropout)
    return TrainingSet(hidden, chosen.labels, chosen.speakers, chosen.clips)


def training_clips(settings: SiteSettings, study: Study) -> dict[str, int]:
    """How many clips every model of a study learns on here."""
    pairs = {modality: _pairs(cohort) for modality, cohort in whole_cohorts(settings, study).items()}
    return {kind: cohort.clips for kind, cohort in cohorts(study, pairs, settings.names(study).released).items()}


def whole_cohorts(settings: SiteSettings, study: Study) -> dict[ModelKind, Cohort]:
    """Everybody of each modality whom any of the study's models learns on."""
    found: dict[ModelKind, Cohort] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        found[modality] = data.chosen(~held_out_mask(settings, study, data.speakers)).cohort
    return found


def _trained_on(settings: SiteSettings, study: Study, kind: ModelKind, data: ReleasedFeatures) -> npt.NDArray[np.bool_]:
    pairs = zip(data.speakers, data.clips, strict=True)
    named = settings.names(study).released
    kept = np.array([study.learns(kind, speaker=named(speaker), clip=named(clip)) for speaker, clip in pairs], bool)
    chosen: npt.NDArray[np.bool_] = ~held_out_mask(settings, study, data.speakers) & kept
    return chosen


def _pairs(cohort: Cohort) -> list[tuple[str, str]]:
    return [(speaker, clip) for speaker, clips in cohort.speakers for clip in clips]
