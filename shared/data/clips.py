"""A corpus once read: speakers, clips, and everything that could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moretta.shared.core.labels import SpeakerId


@dataclass(frozen=True, slots=True)
class Speaker:
    """One person, as far as the corpus's tables describe them. Unknown values are None."""

    id: SpeakerId
    sex: str | None = None
    """`female` or `male`."""
    age: int | None = None
    """In years."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of one speaker. At least one of `audio` and `video` is a path."""

    name: str
    """Different for every clip of the corpus. Never leaves a site."""
    speaker: SpeakerId
    """Never leaves a site."""
    label: str
    """One of the study's classes."""
    sentence: str = ""
    """Short name of the sentence; empty if it is not known."""
    level: str = ""
    """Short name of the acted intensity; empty if it is not known."""
    audio: Path | None = None
    video: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The sound file and the video, as far as there are any."""
        return tuple(path for path in (self.audio, self.video) if path is not None)


@dataclass(frozen=True, slots=True)
class Drop:
    """A file or clip that was not used, and why."""

    file: str
    """Relative to the corpus folder. Never leaves a site."""
    reason: str
    """A stable code, such as `bad-name`, `unreadable`, `silent`."""
    detail: str = ""
    speaker: SpeakerId | None = None
    """The person in it, where its name or its row says so."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Clips in order of their names, their speakers, and what was dropped."""

    root: Path
    name: str
    synthetic: bool
    clips: tuple[Clip, ...]
    speakers: dict[SpeakerId, Speaker]
    dropped: tuple[Drop, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    """Facts for a reader of the report for which no file was dropped. They never leave a site."""
    tables: tuple[str, ...] = ()
    """Tables that say whose a clip is, or how it is labelled; relative to `root`. Not all of them need exist."""
    sites: Mapping[SpeakerId, str] = field(default_factory=dict)
    """The site of each speaker, where the corpus assigns sites."""
    tested: frozenset[SpeakerId] = frozenset()
    """Speakers whom the corpus holds out for testing; empty if it leaves that to the study."""

    def of(self, speakers: Iterable[SpeakerId]) -> tuple[Clip, ...]:
        """The clips of some speakers, in order of their names."""
        wanted = set(speakers)
        return tuple(clip for clip in self.clips if clip.speaker in wanted)


def by_reason(drops: Iterable[Drop]) -> dict[str, int]:
    """How many files were dropped for each reason, the most frequent first."""
    return dict(Counter(drop.reason for drop in drops).most_common())
