"""Tables of speakers as CREMA-D and others keep them: sex and age.

A value that is not understood counts as unknown and is named in a warning. Rows that contradict each other make the
value unknown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.data.clips import Speaker
from moretta.shared.data.tables import Row, listed, not_understood, read_table
from moretta.shared.release.release_format import age_group

DEMOGRAPHICS_FILE = "VideoDemographics.csv"
SEXES = ("female", "male")
MIN_AGE, MAX_AGE = 1, 120
"""Years. Tables write 0, 99 or 999 for ages that nobody asked for."""

_PEOPLE = {
    "ActorID": ("actor", "actorno", "actornumber", "speaker", "speakerid", "subject", "subjectid", "participant", "id"),
    "Age": ("ageyears", "ageinyears", "agegroup", "agerange"),
    "Sex": ("gender",),
}
_SEX_WORDS = {
    "female": ("f", "female", "females", "fem", "w", "woman", "women", "girl", "weiblich", "frau", "femme", "feminin"),
    "male": ("m", "male", "males", "man", "men", "boy", "maennlich", "männlich", "mann", "homme", "masculin"),
}
_SEX_OF = {word: sex for sex, words in _SEX_WORDS.items() for word in words}
UNKNOWN = {"", "?", "-", ".", "na", "n/a", "nan", "none", "null", "unknown", "not known", "missing", "not available"}
"""Values that tables hold where nothing is known."""
_ACTOR = re.compile(r"(?:actor|speaker|subject|participant|id)?[ _-]*0*(\d{1,9})(?:[.,]0*)?", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})(?:[.,]\d*)?\s*(?:y|yr|yrs|years?)?(?: old)?", re.IGNORECASE)
_AGES = re.compile(r"[\[(]?(\d{1,3})\s*(?:-|\u2013|\u2014|to|\.\.)\s*(\d{1,3})[\])]?", re.IGNORECASE)


def read_demographics(path: Path) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    """Speakers by their number, and a warning for each value that says nothing usable.

    Raises:
        CorpusError: see `read_table`.
    """
    rows: list[tuple[SpeakerId, Row]] = []
    odd: dict[str, list[int]] = defaultdict(list)
    for row in read_table(path, _PEOPLE):
        if (match := _ACTOR.fullmatch(row["ActorID"])) is None:
            odd[row["ActorID"]].append(row.line)
        else:
            rows.append((str(int(match[1])), row))
    people, warnings = describe_people(path, rows)
    return people, [*not_understood(path, "ActorID", odd, "a number", "the row is ignored"), *warnings]


def describe_people(
    path: Path, rows: Sequence[tuple[SpeakerId, Row]], columns: Sequence[str] = ("Sex", "Age")
) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    """Sex and age of speakers from the rows of a table, and a warning for each value that says nothing usable.

    Args:
        path: of the table, for warnings.
        rows: each with the speaker it is about.
        columns: names of the columns of sex and age; a column that the table has not is left out.
    """
    words = {row["Sex"].casefold().rstrip(".") for _, row in rows}
    readers: dict[str, tuple[Callable[[str], str | int | None], str]] = {
        "Sex": (lambda text: _sex(text, words), "female or male"),
        "Age": (_age, f"years from {MIN_AGE} to {MAX_AGE}, or a range within one age group"),
    }
    known: dict[str, dict[SpeakerId, Any]] = {"Sex": {}, "Age": {}}
    wrong, contradicting, silent = [], [], []
    for column in columns:
        read, expected = readers[column]
        found: dict[SpeakerId, set[str | int]] = defaultdict(set)
        odd: dict[str, list[int]] = defaultdict(list)
        named: set[SpeakerId] = set()
        for speaker, row in rows:
            value = read(row[column])
            if value is not None:
                found[speaker].add(value)
            elif row[column].casefold() in UNKNOWN:
                named.add(speaker)
            else:
                odd[row[column]].append(row.line)
        name = column.lower()
        several = [speaker for speaker, values in found.items() if len(values) > 1]
        nothing = in_order(named - {speaker for speaker, values in found.items() if values})
        known[column] = {speaker: next(iter(values)) for speaker, values in found.items() if len(values) == 1}
        wrong += not_understood(path, name, odd, expected)
        if several:
            contradicting.append(
                f"{path.name} has contradicting rows of {len(several)} speakers, whose {name} counts as unknown: "
                f"{listed(several)}"
            )
        if nothing:
            silent.append(f"{path.name} gives no {name} of {len(nothing)} speakers: {listed(nothing)}")
    people = {s: Speaker(s, known["Sex"].get(s), known["Age"].get(s)) for s, _ in rows}
    return people, [*wrong, *contradicting, *silent]


def _sex(text: str, words: set[str]) -> str | None:
    """`M` is a woman's in a column that has `H` too: mujer and hombre."""
    word = text.casefold().rstrip(".")
    return None if word == "m" and "h" in words else _SEX_OF.get(word)


def _age(text: str) -> int | None:
    """In years; of a range its middle, if all of it is in one of the groups that a release states."""
    if match := _AGES.fullmatch(text):
        low, high = int(match[1]), int(match[2])
        inside = MIN_AGE <= low <= high <= MAX_AGE and age_group(low) == age_group(high)
        return (low + high) // 2 if inside else None
    match = _AGE.fullmatch(text)
    return int(match[1]) if match and MIN_AGE <= int(match[1]) <= MAX_AGE else None
