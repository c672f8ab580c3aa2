"""Which clips a site may read: its own speakers', without those of people who have withdrawn, wherever these clips are;
for a study, those that its steward approved.

`withdrawn.json` in the site's folder lists who has withdrawn. A clip is known by its speaker, and by a keyed digest of
its content: clips that are moved to another speaker, or copied back from a backup, stay out.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from moretta.client.site_home import OwnRecord, read_own
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import CorpusError, HomeError
from moretta.shared.core.labels import EMOTIONS, SpeakerId
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.clips import Clip, Corpus

if TYPE_CHECKING:
    from moretta.client.settings import SiteSettings
    from moretta.shared.data.reader import Labels
    from moretta.shared.study.schema import Study

_log = logging.getLogger(__name__)


class WithdrawnFile(OwnRecord):
    """The content of one file of a person who has withdrawn."""

    size: int
    """Bytes: only files of such a size are ever read to be compared."""
    digest: str
    """Digest of the clip, by `content_digest`."""


class WithdrawnSpeaker(OwnRecord):
    """One person who has withdrawn."""

    speaker: SpeakerId
    at: int
    """Seconds since 1970."""
    files: tuple[WithdrawnFile, ...] = ()


_LIST = TypeAdapter(dict[Literal["people"], tuple[WithdrawnSpeaker, ...]])


@dataclass(frozen=True)
class Withdrawn:
    """Everybody who has withdrawn from one site."""

    people: tuple[WithdrawnSpeaker, ...] = ()
    key: PseudonymKey | None = None
    """The site's key, under which digests were made."""

    @classmethod
    def load(cls, home: Path, key: Callable[[], PseudonymKey]) -> Withdrawn:
        """Read a site's list; nobody has withdrawn where there is none."""
        path = home / "withdrawn.json"
        broken = HomeError(
            f"the list of people who have withdrawn, {path}, cannot be read",
            expected="the file that `moretta site withdraw` wrote",
            fix="put it back from a backup, or withdraw those people again: moretta site withdraw SPEAKER",
        )
        found = read_own(path, _LIST.validate_json, broken)
        return cls() if found is None else cls(found.get("people", ()), key())

    def save(self, home: Path) -> Withdrawn:
        """Write the list into a site's folder."""
        write_atomic(home / "withdrawn.json", _LIST.dump_json({"people": self.people}, indent=1), mode=0o600)
        return self

    @cached_property
    def speakers(self) -> frozenset[SpeakerId]:
        """Speakers who have withdrawn, by their names in the corpus."""
        return frozenset(person.speaker for person in self.people)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Digests of the files of these speakers."""
        return frozenset(file.digest for person in self.people for file in person.files)

    @cached_property
    def _sizes(self) -> frozenset[int]:
        return frozenset(file.size for person in self.people for file in person.files)

    def covers(self, clip: Clip) -> bool:
        """Whether a clip is of somebody who has withdrawn."""
        return clip.speaker in self.speakers or any(map(self._is_theirs, clip.files))

    def _is_theirs(self, path: Path) -> bool:
        try:
            size = path.stat().st_size
        except OSError:
            return False  # gone since it was listed: it will not be read
        return self.key is not None and size in self._sizes and content_digest(self.key, path) in self.digests


NOBODY = Withdrawn()
"""An empty list: nobody has withdrawn."""


def content_digest(key: PseudonymKey, path: Path) -> str:
    """Keyed digest of a file's content, 64 hexadecimal digits."""
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", fix="check the corpus and its rights") from error
    return key.digest(f"content {content}")


def add_withdrawn(home: Path, key: PseudonymKey, speaker: SpeakerId, files: frozenset[WithdrawnFile]) -> Withdrawn:
    """Put a person on the list, or add files to theirs."""
    known = {person.speaker: person for person in Withdrawn.load(home, lambda: key).people}
    before = known.pop(speaker, None) or WithdrawnSpeaker(speaker=speaker, at=int(time.time()))
    all_files = tuple(sorted({*before.files, *files}, key=lambda file: file.digest))
    return Withdrawn((*known.values(), before.model_copy(update={"files": all_files})), key).save(home)


def remove_withdrawn(home: Path, key: PseudonymKey, speaker: SpeakerId) -> None:
    """Take a person who has consented again off the list."""
    known = Withdrawn.load(home, lambda: key).people
    others = tuple(person for person in known if person.speaker != speaker)
    if len(others) == len(known):
        found = f"speaker {speaker} is not on the list of people who have withdrawn"
        raise HomeError(found, expected=", ".join(person.speaker for person in known) or "somebody on it")
    Withdrawn(others, key).save(home)


def site_corpus(settings: SiteSettings, study: Study) -> tuple[Corpus, tuple[Clip, ...]]:
    """The corpus that this site reads for a study, and the clips of its own speakers that were approved for it.

    Everything made for a study is made of these clips. Clips that were not approved are in no count either.
    """
    from moretta.client.clips.approved_clips import approved

    corpus, clips = labelled_corpus(settings, study.labels, study.classes)
    kept = approved(settings, study.digest(), corpus, clips)
    if not kept:
        expected, fix = "those that were approved", "review the study again: moretta site review DIGEST"
        raise CorpusError(f"none of {len(clips)} clips was approved as it is now", expected=expected, fix=fix)
    if len(kept) == len(clips):
        return corpus, clips
    not_approved = len(clips) - len(kept)
    _log.warning(
        "%s: %d clips were not approved for this study as they are now: they stay here", study.name, not_approved
    )
    left = {clip.speaker for clip in kept}
    speakers = {name: speaker for name, speaker in corpus.speakers.items() if name in left}
    dropped = tuple(drop for drop in corpus.dropped if drop.speaker in left)
    return replace(corpus, clips=kept, speakers=speakers, dropped=dropped), kept


def labelled_corpus(
    settings: SiteSettings, labels: Labels, classes: Sequence[str] = EMOTIONS
) -> tuple[Corpus, tuple[Clip, ...]]:
    """The site's corpus and clips with the labels and classes of a study."""
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
