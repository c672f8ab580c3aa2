"""From a site's own release to what its models learn on, and which of its speakers are held out of training.

The models are tested on held-out speakers, of whom no model has seen anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from moretta.client.accounting.account import Cohort, cohorts_of
from moretta.client.accounting.ledger import opened
from moretta.client.accounting.planning import cohorts
from moretta.client.settings import SiteSettings
from moretta.shared.core.array_types import Array, Bool, Float32, Int64
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import EmotionModel, PublicScale, study_model
from moretta.shared.models.fusion_gate import Prediction, gate_input, hide_some
from moretta.shared.models.outputs import Weights, log_probabilities
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release import open_release
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Models = Mapping[Modality, Weights]
CODE_KIND = "code"
"""Ledger entries of the training of a federated code."""
SCALE_FILE = "public.safetensors"
"""File beside a release with the public statistics that its training needs. It is never sent."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Model inputs of released clips: float32 [clips, ...], class indices int64 [clips], and the site's pseudonyms."""

    features: Float32
    labels: Int64
    speakers: tuple[str, ...]
    clips: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def cohort(self) -> Cohort:
        """Speakers and clips."""
        return Cohort.of(zip(self.speakers, self.clips, strict=True))

    def owners(self, unit: str) -> Int64:
        """int64 [clips]: the number of the unit that each clip belongs to."""
        return np.arange(len(self)) if unit == "clip" else numbered(self.speakers)

    def chosen(self, keep: Bool) -> TrainingSet:
        """The clips where `keep`, bool [clips], is true."""
        kept = np.flatnonzero(keep)
        speakers, clips = (tuple(names[i] for i in kept) for names in (self.speakers, self.clips))
        return TrainingSet(self.features[keep], self.labels[keep], speakers, clips)


def numbered(names: Sequence[str]) -> Int64:
    """int64: each name's place among the sorted different names."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def released_features(settings: SiteSettings, study: Study, modality: Modality) -> TrainingSet:
    """Every released clip of one modality."""
    folder = _finished(settings, study)
    found = _features(folder, _made_at(folder), study_model(study, modality), study.classes)
    names, ledger = settings.names(study), opened(settings.ledger)
    return replace(found, speakers=names.as_own(found.speakers, ledger), clips=names.as_own(found.clips, ledger))


@lru_cache(maxsize=64)  # one process serves many rounds, in simulation of many sites
def _features(folder: Path, made: tuple[int, int], model: EmotionModel, classes: tuple[str, ...]) -> TrainingSet:
    del made
    release, modality = open_release(folder), model.modality
    assert modality != "fusion"  # it looks at predictions, and not at what was released
    statement = release.anonymizer(modality)
    form = "" if statement is None else statement.form
    scale = public_scale(folder) if modality == "voice" else None
    rows, clips = [], []
    for clip, array in release.arrays(modality):
        rows.append(model.input_of(form, array, release.codebook, scale))
        clips.append(clip)
    return TrainingSet(
        features=np.stack(rows) if rows else np.zeros((0, 1), np.float32),
        labels=np.array([classes.index(c.emotion) for c in clips], np.int64),
        speakers=tuple(c.speaker for c in clips),
        clips=tuple(c.clip for c in clips),
    )


def forget_features() -> None:
    """Drop what this process has cached of any release: one of them is used no more."""
    _features.cache_clear()


def save_public_scale(folder: Path, shared: dict[str, Array]) -> None:
    """Keep the public statistics of a release beside it: training needs the same, and no later ones."""
    names = ("voice/mean", "voice/std")
    if all(name in shared for name in names):
        save_file({name: np.ascontiguousarray(shared[name]) for name in names}, folder / SCALE_FILE)


def public_scale(folder: Path) -> PublicScale | None:
    """The statistics that `save_public_scale` kept beside a release; None if there are none."""
    if not (folder / SCALE_FILE).exists():
        return None
    arrays = load_file(folder / SCALE_FILE)
    return PublicScale(arrays["voice/mean"], arrays["voice/std"])


def held_out(settings: SiteSettings, study: Study, folder: Path | None = None) -> frozenset[str]:
    """The site's own pseudonyms of its released speakers who are held out of training, of a release in any folder."""
    folder = _finished(settings, study, folder)
    released = tuple(sorted(_speakers(folder, _made_at(folder))))
    return of_released(settings, study, frozenset(settings.names(study).as_own(released, opened(settings.ledger))))


def held_out_mask(settings: SiteSettings, study: Study, speakers: tuple[str, ...]) -> Bool:
    """True for clips of speakers who are held out of training: bool [clips]."""
    chosen = held_out(settings, study)
    return np.array([speaker in chosen for speaker in speakers], bool)


def of_released(settings: SiteSettings, study: Study, released: frozenset[str]) -> frozenset[str]:
    """Speakers who are held out, by the site's own pseudonyms, of a release that is not finished yet.

    Speakers whom the study's code was trained on are not held out: the rule chooses anew if one had no usable clip.
    """
    key = settings.pseudonyms()
    if settings.held_out is not None:
        return released & {key.speaker(number) for number in settings.held_out}
    chosen = by_rule(key, released, study)
    if study.site_training is None:
        return chosen
    ledger = opened(settings.ledger)
    known, entries = cohorts_of(ledger), ledger.entries(CODE_KIND, study=study.digest())
    return chosen.difference(*(known[entry["cohort"]].members("speaker") for entry in entries))


def by_rule(key: PseudonymKey, speakers: frozenset[str], study: Study) -> frozenset[str]:
    """Choose by a keyed order: the same for one site and study, and unknown outside the site.

    The order depends on the study's seed and not on its test fold, so that over all test folds each speaker is held
    out once. With fewer speakers than folds there are as many folds as speakers; a single one is held out in one of
    the study's folds.
    """
    folds, chosen = study.split.folds, study.split.test_fold
    ranked = sorted(speakers, key=lambda speaker: key.rank(f"fold {study.seed} {speaker}"))
    if len(ranked) == 1:
        return speakers if key.rank(f"fold {study.seed}") % folds == chosen else frozenset()
    folds = max(1, min(folds, len(ranked)))
    return frozenset(ranked[chosen % folds :: folds])


def training_set(settings: SiteSettings, study: Study, modality: Modality) -> TrainingSet:
    """Released clips of one modality, of speakers who are not held out, that its model learns on."""
    return _learned(settings, study, modality, released_features(settings, study, modality))


def fusion_set(settings: SiteSettings, study: Study, models: Models, chances: NoiseSource) -> TrainingSet:
    """The same for the fusion: predictions of finished models for every clip that has a modality, in order of
    pseudonyms, with a modality hidden here and there, since it must work with one."""
    if set(models) != set(study.modalities):
        raise RefusedError("a fusion without the models whose predictions it weighs", expected="voice and face")
    predictions: dict[Modality, Prediction] = {}
    known: dict[str, tuple[str, int]] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        if data.clips:
            found = log_probabilities(study_model(study, modality), models[modality], data.features)
            predictions[modality] = Prediction(data.clips, found)
            known |= dict(zip(data.clips, zip(data.speakers, data.labels.tolist(), strict=True), strict=True))
    clips = tuple(sorted(known))
    labels, speakers = np.array([known[clip][1] for clip in clips], np.int64), tuple(known[clip][0] for clip in clips)
    chosen = _learned(settings, study, "fusion", TrainingSet(gate_input(clips, predictions), labels, speakers, clips))
    return replace(chosen, features=hide_some(chosen.features, chances.uniform((len(chosen),)), study.fusion.dropout))


def training_clips(settings: SiteSettings, study: Study) -> dict[str, int]:
    """The number of clips on which each model of a study is trained at this site."""
    pairs = {
        modality: [(speaker, clip) for speaker, clips in cohort.speakers for clip in clips]
        for modality, cohort in whole_cohorts(settings, study).items()
    }
    return {kind: cohort.clips for kind, cohort in cohorts(study, pairs, settings.names(study).released).items()}


def whole_cohorts(settings: SiteSettings, study: Study) -> dict[ModelKind, Cohort]:
    """Everybody on whom a model of the study is trained, for each modality."""
    found: dict[ModelKind, Cohort] = {}
    for modality in study.modalities:
        data = released_features(settings, study, modality)
        found[modality] = data.chosen(~held_out_mask(settings, study, data.speakers)).cohort
    return found


def _learned(settings: SiteSettings, study: Study, kind: ModelKind, data: TrainingSet) -> TrainingSet:
    named = settings.names(study).released
    pairs = zip(data.speakers, data.clips, strict=True)
    kept = np.array([study.learns(kind, speaker=named(speaker), clip=named(clip)) for speaker, clip in pairs], bool)
    return data.chosen(~held_out_mask(settings, study, data.speakers) & kept)


def _finished(settings: SiteSettings, study: Study, folder: Path | None = None) -> Path:
    folder = folder or settings.release_of(study)
    if not (folder / STATEMENT_FILE).exists():
        raise RunError("training was requested before this site released", fix="run the release stage first")
    return folder


def _made_at(folder: Path) -> tuple[int, int]:
    """Distinguishes a release from one that was made later in its place."""
    found = (folder / STATEMENT_FILE).stat()
    return found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=64)
def _speakers(folder: Path, made: tuple[int, int]) -> frozenset[str]:
    del made
    return frozenset(clip.speaker for clip in open_release(folder).clips)
