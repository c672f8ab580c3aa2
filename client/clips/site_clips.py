"""Which clips of a corpus are this site's to read: its own speakers', without those who have withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from moretta.client.clips.withdrawn import Withdrawn
    from moretta.shared.data.reader import Labels


def site_corpus(settings: SiteSettings, study: Study) -> tuple[Corpus, tuple[Clip, ...]]:
    """The corpus this site reads, and the clips of its own speakers in it. People who have withdrawn are in neither.

    Raises:
        CorpusError: the folder cannot be used, or none of its clips belongs to this site.
    """
    return labelled_corpus(settings, study.labels, study.classes)


def labelled_corpus(
    settings: SiteSettings, labels: Labels, classes: Sequence[str] = EMOTIONS
) -> tuple[Corpus, tuple[Clip, ...]]:
    """The same with the labels that some study names.

    Raises:
        CorpusError: as above.
    """
    from moretta.shared.data.reader import read_corpus

    corpus = without(read_corpus(settings.corpus, labels=labels, classes=classes), settings.withdrawn)
    clips = corpus.of(settings.speakers) if settings.speakers else corpus.clips
    if not clips:
        raise CorpusError("no clip of this site's speakers in its corpus", fix="check the site's speakers and folder")
    return corpus, clips


def without(corpus: Corpus, withdrawn: Withdrawn) -> Corpus:
    """The corpus as if the people who have withdrawn had never been in it, under whatever name their clips are."""
    if not withdrawn.people:
        return corpus
    clips = tuple(clip for clip in corpus.clips if not withdrawn.covers(clip))
    left = {clip.speaker for clip in clips}
    return replace(
        corpus,
        clips=clips,
        speakers={name: speaker for name, speaker in corpus.speakers.items() if name in left},
        dropped=tuple(drop for drop in corpus.dropped if drop.speaker not in withdrawn.speakers),
    )
