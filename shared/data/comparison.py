"""Compares a corpus with the lists that CREMA-D is published with, and its recordings with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.data.clips import Clip, Corpus, Speaker
from moretta.shared.data.corpora.cremad import VOTES_FILE, ClipName, find_votes
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, read_demographics
from moretta.shared.data.recordings import Kind
from moretta.shared.data.tables import listed, read_table

NAMES_FILE = "SentenceFilenames.csv"


@dataclass(frozen=True, slots=True)
class PublishedComparison:
    """How a corpus differs from CREMA-D's own lists."""

    listed_clips: int
    present_clips: int
    """Clips of the corpus that are listed."""
    unknown_clips: list[str]
    """Clips of the corpus that are not listed."""
    missing_clips: list[str]
    """Listed clips, of speakers that the corpus has, that it lacks."""
    unknown_speakers: list[SpeakerId]
    missing_speakers: list[SpeakerId]
    different_speakers: list[SpeakerId]
    """Speakers whose sex or age differs from the list."""
    outside_grammar: list[str]
    """Listed names that Moretta cannot parse: none in CREMA-D as published."""
    without_vote: int
    """Listed clips whose crowd vote is tied or missing."""


def compare_with_published(corpus: Corpus, lists: Path) -> PublishedComparison:
    """Compare with `SentenceFilenames.csv`, `VideoDemographics.csv` and `summaryTable.csv` in `lists`.

    Raises:
        CorpusError: a list is missing or cannot be read.
    """
    for file in (NAMES_FILE, DEMOGRAPHICS_FILE):
        if not (lists / file).is_file():
            raise CorpusError(f"no {file} in {lists}", expected=f"{NAMES_FILE}, {DEMOGRAPHICS_FILE}, {VOTES_FILE}")
    named, outside = _listed_names(lists / NAMES_FILE)
    people, _ = read_demographics(lists / DEMOGRAPHICS_FILE)
    votes = read_table(find_votes(lists), ("FileName", "MultiModalVote"))  # as published, its ties are `A:S`
    present = {ClipName.parse(clip.name) for clip in corpus.clips}
    here = corpus.speakers.keys()
    return PublishedComparison(
        listed_clips=len(named),
        present_clips=len(present & named),
        unknown_clips=_sorted_names(present - named),
        missing_clips=_sorted_names({name for name in named - present if name.speaker in here}),
        unknown_speakers=in_order(here - people.keys()),
        missing_speakers=in_order(people.keys() - here),
        different_speakers=in_order(s for s in here & people.keys() if _differ(corpus.speakers[s], people[s])),
        outside_grammar=outside,
        without_vote=sum(len(row["MultiModalVote"]) != 1 for row in votes),
    )


def _listed_names(path: Path) -> tuple[set[ClipName], list[str]]:
    names: set[ClipName] = set()
    outside: list[str] = []
    for row in read_table(path, ("Filename",)):
        try:
            names.add(ClipName.parse(row["Filename"]))
        except ClipError:
            outside.append(row["Filename"])
    return names, outside


def _sorted_names(names: set[ClipName]) -> list[str]:
    return [str(name) for name in sorted(names)]


def _differ(here: Speaker, listed: Speaker) -> bool:
    """Unknown differs from nothing."""
    pairs = ((here.sex, listed.sex), (here.age, listed.age))
    return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Seen:
    """One usable file of a clip."""

    clip: Clip
    kind: Kind
    file: str
    digest: str
    """Of its samples or pictures."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One recording under several names: whatever is counted by clip counts it several times."""

    kind: Kind
    files: list[str]
    speakers: list[SpeakerId]
    emotions: list[str]

    @property
    def fault(self) -> bool:
        """Whether it is unclear whose recording it is."""
        return len(self.speakers) > 1

    def __str__(self) -> str:
        whose = f"speakers {listed(self.speakers)}" if self.fault else f"{len(self.files)} names"
        emotions = f", labelled {' and '.join(self.emotions)}" if len(self.emotions) > 1 else ""
        return f"the same {self.kind} under {whose}{emotions}: {listed(self.files)}"


def find_repeated(seen: Iterable[Seen]) -> list[Repeated]:
    """Recordings that are there more than once, in order of the first."""
    same: dict[tuple[Kind, str], list[Seen]] = defaultdict(list)
    for one in seen:
        same[one.kind, one.digest].append(one)
    return [
        Repeated(
            kind,
            [one.file for one in several],
            in_order({one.clip.speaker for one in several}),
            sorted({one.clip.label for one in several}),
        )
        for (kind, _), several in same.items()
        if len(several) > 1
    ]
