"""A site's originals beside its release, under the same pseudonyms: for attacks that run at the site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moretta.client.settings import SiteSettings
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.release import Release
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from moretta.shared.audit.dataset import ClipSet

_SIDE = 128
"""Pixels of original faces, where the release has none."""


def original_and_released(
    settings: SiteSettings, study: Study, release: Release, corpus: Corpus, clips: Sequence[Clip]
) -> Iterator[tuple[ClipSet, ClipSet]]:
    """Originals and what was released of them, of each modality of the release."""
    from moretta.shared.audit.arrays import VideoFaces
    from moretta.shared.audit.dataset import ClipSet

    key, known = released_key(settings, study, release), replace(corpus, clips=tuple(clips))
    for modality in release.modalities:
        released = ClipSet.from_releases([release], modality, classes=study.classes)
        loader = VideoFaces(released.side(_SIDE), study.face.fps) if modality == "face" else None
        yield ClipSet.from_corpus(known, modality, key, loader=loader, classes=study.classes), released


def released_key(settings: SiteSettings, study: Study, release: Release) -> PseudonymKey:
    """The key of the pseudonyms in a release."""
    names = settings.names(study)
    return names.key if names.study is None else names.key.in_study(release.statement.study)
