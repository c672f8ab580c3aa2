"""From a site's own release to what its models train and are tested on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.client.accounting.ledger import Ledger
from moretta.client.settings import SiteSettings
from moretta.client.training.held_out import MadeAt, held_out, made_at
from moretta.client.training.local_training import TrainingSet
from moretta.shared.core.errors import RunError
from moretta.shared.core.terms import Modality
from moretta.shared.features.voice_forms import is_code, model_input
from moretta.shared.models.emotion import PublicScale, emotion_model
from moretta.shared.release import Release, open_release
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

Array = npt.NDArray[Any]
SCALE_FILE = "public.safetensors"
"""Beside a release: the public statistics that its training needs. It is never sent."""


@dataclass(frozen=True, slots=True)
class ReleasedFeatures:
    """Model inputs of every released clip of one modality at this site."""

    features: npt.NDArray[np.float32]
    """[clips, ...]"""
    labels: npt.NDArray[np.int64]
    speakers: tuple[str, ...]
    """The site's own pseudonyms, one a clip."""
    clips: tuple[str, ...]
    """The site's own pseudonyms, one a clip."""

    def chosen(self, keep: npt.NDArray[np.bool_]) -> TrainingSet:
        """The clips where `keep` is true."""
        return TrainingSet(
            self.features[keep],
            self.labels[keep],
            speakers=tuple(s for s, kept in zip(self.speakers, keep, strict=True) if kept),
            clips=tuple(c for c, kept in zip(self.clips, keep, strict=True) if kept),
        )


def released_features(settings: SiteSettings, study: Study, modality: Modality) -> ReleasedFeatures:
    """Features of this site's release of a study.

    Raises:
        RunError: nothing was released yet.
    """
    folder = settings.releases / study.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():
        raise RunError("training was asked for before this site released", fix="run the release stage first")
    found = _features(folder, made_at(folder), study.section(modality).model, modality)
    names, ledger = settings.names(study), Ledger(settings.ledger)
    return replace(found, speakers=names.as_own(found.speakers, ledger), clips=names.as_own(found.clips, ledger))


@lru_cache(maxsize=64)  # one process serves many rounds, in simulation of many sites
def _features(folder: Path, made: MadeAt, model_name: str, modality: Modality) -> ReleasedFeatures:
    del made
    release = open_release(folder)
    model = emotion_model(modality, model_name)
    scale = public_scale(folder) if modality == "voice" and not _holds_codes(release) else None
    rows, clips = [], []
    for clip, array in release.arrays(modality):
        rows.append(model.features(_as_input(release, modality, array), scale))
        clips.append(clip)
    return ReleasedFeatures(
        features=np.stack(rows) if rows else np.zeros((0, 1), np.float32),
        labels=np.array([c.emotion.class_index for c in clips], np.int64),
        speakers=tuple(c.speaker for c in clips),
        clips=tuple(c.clip for c in clips),
    )


def forget_features() -> None:
    """Let go of what this process holds of any release: one of them is used no more."""
    _features.cache_clear()


def held_out_mask(settings: SiteSettings, study: Study, speakers: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """True for clips of speakers that are held out of training: bool [clips]."""
    chosen = held_out(settings, study)
    return np.array([speaker in chosen for speaker in speakers], bool)


def save_public_scale(folder: Path, shared: dict[str, Array]) -> None:
    """Keep the public statistics that a release was made with beside it: training needs the same, and no later ones."""
    from safetensors.numpy import save_file

    names = ("voice/mean", "voice/std")
    if all(name in shared for name in names):
        arrays: dict[str, Array] = {name: np.ascontiguousarray(shared[name]) for name in names}
        save_file(arrays, folder / SCALE_FILE)


def public_scale(folder: Path) -> PublicScale | None:
    """What `save_public_scale` kept."""
    from safetensors.numpy import load_file

    path = folder / SCALE_FILE
    if not path.exists():
        return None
    arrays = load_file(path)
    return PublicScale(arrays["voice/mean"], arrays["voice/std"])


def _as_input(release: Release, modality: Modality, array: Array) -> Array:
    if modality == "face":
        return array
    statement = release.anonymizer("voice")
    assert statement is not None  # arrays of this modality were there
    return model_input(statement.form, array, release.codebook)


def _holds_codes(release: Release) -> bool:
    statement = release.anonymizer("voice")
    return statement is not None and is_code(statement.form)
