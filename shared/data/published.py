"""Compares a corpus with the lists that CREMA-D is published with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.data.clip_names import ClipName
from moretta.shared.data.clips import Corpus, Speaker
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, VOTES_FILE, find_votes, read_demographics
from moretta.shared.data.tables import read_table

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
    unknown_speakers: list[int]
    missing_speakers: list[int]
    different_speakers: list[int]
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
    listed, outside = _listed_names(lists / NAMES_FILE)
    people, _ = read_demographics(lists / DEMOGRAPHICS_FILE)
    votes = read_table(find_votes(lists), ("FileName", "MultiModalVote"))  # as published, its ties are `A:S`
    present = {clip.name for clip in corpus.clips}
    here = corpus.speakers.keys()
    return PublishedComparison(
        listed_clips=len(listed),
        present_clips=len(present & listed),
        unknown_clips=_sorted_names(present - listed),
        missing_clips=_sorted_names({name for name in listed - present if name.speaker in here}),
        unknown_speakers=sorted(here - people.keys()),
        missing_speakers=sorted(people.keys() - here),
        different_speakers=sorted(
            number for number in here & people.keys() if _differ(corpus.speakers[number], people[number])
        ),
        outside_grammar=outside,
        without_vote=sum(len(row["MultiModalVote"]) != 1 for row in votes),
    )


def _listed_names(path: Path) -> tuple[set[ClipName], list[str]]:
    listed: set[ClipName] = set()
    outside: list[str] = []
    for row in read_table(path, ("Filename",)):
        try:
            listed.add(ClipName.parse(row["Filename"]))
        except ClipError:
            outside.append(row["Filename"])
    return listed, outside


def _sorted_names(names: set[ClipName]) -> list[str]:
    return [str(name) for name in sorted(names)]


def _differ(here: Speaker, listed: Speaker) -> bool:
    """Unknown differs from nothing."""
    pairs = ((here.sex, listed.sex), (here.age, listed.age))
    return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)
