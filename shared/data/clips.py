"""A corpus once read: speakers, clips, and everything that could not be used; and how speakers are dealt to folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId, in_order

Folds = tuple[tuple[SpeakerId, ...], ...]


@dataclass(frozen=True, slots=True)
class Speaker:
    """One person, as far as the corpus's tables describe them. Unknown values are None."""

    id: SpeakerId
    sex: str | None = None
    """`female` or `male`."""
    age: int | None = None
    """Age in years."""


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


def make_folds(speakers: Iterable[Speaker], folds: int, seed: int) -> Folds:
    """Deal speakers into disjoint, sorted folds. Sizes differ by at most one, and so do the numbers of each sex. Raises
    StudyError: fewer than two folds, or fewer speakers than folds."""
    if folds < 2:
        raise StudyError(f"folds = {folds}", expected="at least 2: one is held out for testing")
    return tuple(map(tuple, _deal(speakers, folds, seed, "folds", "in each fold")))


def assign_sites(speakers: Iterable[Speaker], sites: int, seed: int) -> list[list[SpeakerId]]:
    """Deal speakers over virtual sites in the same way. Raises StudyError: no site, or more sites than speakers."""
    if sites < 1:
        raise StudyError(f"sites = {sites}", expected="at least 1")
    return _deal(speakers, sites, seed, "sites", "at each site")


def _deal(speakers: Iterable[Speaker], hands: int, seed: int, key: str, each: str) -> list[list[SpeakerId]]:
    """Like cards: each sex is shuffled, and dealing goes on where the sex before it stopped."""
    known = {speaker.id: speaker for speaker in speakers}
    if len(known) < hands:
        many = len(known) > 1 or key == "sites"
        raise StudyError(
            f"{hands} {key} over {len(known)} speakers",
            expected=f"at least one speaker {each}",
            fix=f"set {key} to at most {len(known)}" if many else "use a corpus of several speakers",
        )
    generator = np.random.default_rng(seed)
    deck: list[SpeakerId] = []
    for sex in ("female", "male", None):
        group = [speaker for speaker in in_order(known) if known[speaker].sex == sex]
        deck += [group[index] for index in generator.permutation(len(group))]
    return [in_order(deck[hand::hands]) for hand in range(hands)]
