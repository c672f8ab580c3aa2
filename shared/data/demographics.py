"""CREMA-D's tables, and those that people keep like them: who the speakers are, and what the crowd heard.

A value that is not understood counts as unknown and is named in a warning; of rows that contradict each other none
is believed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.data.clip_names import VOTE_LETTERS, ClipName, Emotion
from moretta.shared.data.clips import Speaker
from moretta.shared.data.listing import listed
from moretta.shared.data.tables import not_understood, read_table
from moretta.shared.release.release_format import age_group

DEMOGRAPHICS_FILE = "VideoDemographics.csv"
VOTES_FILE = "summaryTable.csv"
SEXES = ("female", "male")
MIN_AGE, MAX_AGE = 1, 120
"""Years. Tables write 0, 99 or 999 for ages that nobody asked for."""

_PEOPLE = {
    "ActorID": ("actor", "actorno", "actornumber", "speaker", "speakerid", "subject", "subjectid", "participant", "id"),
    "Age": ("ageyears", "ageinyears", "agegroup", "agerange"),
    "Sex": ("gender",),
}
_VOTES = {"FileName": ("file", "clip", "clipname"), "MultiModalVote": ("multimodal",)}
_SEX_WORDS = {
    "female": ("f", "female", "females", "fem", "w", "woman", "women", "girl", "weiblich", "frau", "femme", "feminin"),
    "male": ("m", "male", "males", "man", "men", "boy", "maennlich", "männlich", "mann", "homme", "masculin"),
}
_SEX_OF = {word: sex for sex, words in _SEX_WORDS.items() for word in words}
_EMOTION_WORDS = {
    Emotion.ANG: ("anger", "angry"),
    Emotion.DIS: ("disgust", "disgusted"),
    Emotion.FEA: ("fear", "fearful", "afraid"),
    Emotion.HAP: ("happiness", "happy", "joy"),
    Emotion.NEU: ("neutral", "neutrality"),
    Emotion.SAD: ("sadness", "sad"),
}
_EMOTION_OF = {
    **{letter.lower(): emotion for letter, emotion in VOTE_LETTERS.items()},
    **{emotion.value.lower(): emotion for emotion in Emotion},
    **{word: emotion for emotion, words in _EMOTION_WORDS.items() for word in words},
}
_UNKNOWN = {"", "?", "-", ".", "na", "n/a", "nan", "none", "null", "unknown", "not known", "missing", "not available"}
_Value = TypeVar("_Value", str, int)
_ACTOR = re.compile(r"(?:actor|speaker|subject|participant|id)?[ _-]*0*(\d{1,9})(?:[.,]0*)?", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})(?:[.,]\d*)?\s*(?:y|yr|yrs|years?)?(?: old)?", re.IGNORECASE)
_AGES = re.compile(r"[\[(]?(\d{1,3})\s*(?:-|\u2013|\u2014|to|\.\.)\s*(\d{1,3})[\])]?", re.IGNORECASE)


def read_demographics(path: Path) -> tuple[dict[int, Speaker], list[str]]:
    """Speakers by number, and a warning for each value that says nothing usable.

    Raises:
        CorpusError: see `read_table`.
    """
    sexes: dict[int, set[str]] = defaultdict(set)
    ages: dict[int, set[int]] = defaultdict(set)
    odd: dict[str, dict[str, list[int]]] = {column: defaultdict(list) for column in _PEOPLE}
    numbers: list[tuple[int, int]] = []
    rows = read_table(path, _PEOPLE)
    words = {row["Sex"].casefold().rstrip(".") for row in rows}
    for row in rows:
        number = _actor(row["ActorID"])
        if number is None:
            odd["ActorID"][row["ActorID"]].append(row.line)
            continue
        numbers.append((number, row.line))
        sex, age = _sex(row["Sex"], words), _age(row["Age"])
        if sex is not None:
            sexes[number].add(sex)
        elif row["Sex"].casefold() not in _UNKNOWN:
            odd["Sex"][row["Sex"]].append(row.line)
        if age is not None:
            ages[number].add(age)
        elif row["Age"].casefold() not in _UNKNOWN:
            odd["Age"][row["Age"]].append(row.line)
    people = {number: Speaker(number, _only(sexes[number]), _only(ages[number])) for number, _ in numbers}
    warnings = [
        *not_understood(path, "ActorID", odd["ActorID"], "a number", "the row is ignored"),
        *not_understood(path, "sex", odd["Sex"], "female or male"),
        *not_understood(path, "age", odd["Age"], f"years from {MIN_AGE} to {MAX_AGE}, or a range within one age group"),
        *_contradicting(path, "sex", sexes),
        *_contradicting(path, "age", ages),
    ]
    for column, found, stated in (("sex", sexes, odd["Sex"]), ("age", ages, odd["Age"])):
        named = {line for lines in stated.values() for line in lines}
        silent = sorted({n for n, line in numbers if not found[n] and line not in named})
        if silent:
            warnings.append(f"{path.name} gives no {column} of {len(silent)} speakers: {listed(silent)}")
    return people, warnings


def find_votes(root: Path) -> Path:
    """Where the crowd's votes are: in the folder itself, or where CREMA-D's repository keeps them."""
    for path in (root / VOTES_FILE, root / "processedResults" / VOTES_FILE):
        if path.is_file():
            return path
    raise CorpusError(
        f"no {VOTES_FILE} in {root}, and the labels asked for are `vote`",
        fix="put CREMA-D's summaryTable.csv there, or use the labels `intended`",
    )


def read_votes(path: Path) -> tuple[dict[str, Emotion | None], list[str]]:
    """What most people recognised in face and voice together, by clip name; None where they were tied; and warnings.

    Raises:
        CorpusError: see `read_table`.
    """
    found: dict[str, set[Emotion | None]] = defaultdict(set)
    strange: dict[str, list[int]] = defaultdict(list)
    odd: dict[str, list[int]] = defaultdict(list)
    for row in read_table(path, _VOTES):
        name = _clip(row["FileName"])
        if name is None:
            strange[row["FileName"]].append(row.line)
            continue
        votes = [_EMOTION_OF.get(part.strip().casefold()) for part in re.split(r"[:/,;|+]", row["MultiModalVote"])]
        if None in votes and row["MultiModalVote"].casefold() not in _UNKNOWN:
            odd[row["MultiModalVote"]].append(row.line)
        found[name].add(votes[0] if len(set(votes)) == 1 else None)
    contradicting = [name for name, votes in found.items() if len(votes) > 1]
    warnings = [
        *not_understood(path, "file name", strange, "a clip's name, such as 1001_IEO_ANG_HI", "the row is ignored"),
        *not_understood(path, "vote", odd, "a letter of A, D, F, H, N, S, or the emotion's name"),
    ]
    if contradicting:
        warnings.append(
            f"{path.name} has contradicting votes of {len(contradicting)} clips, which count as without a vote: "
            f"{listed(contradicting)}"
        )
    return {name: next(iter(votes)) if len(votes) == 1 else None for name, votes in found.items()}, warnings


def _only(values: set[_Value]) -> _Value | None:
    return next(iter(values)) if len(values) == 1 else None


def _contradicting(path: Path, column: str, found: Mapping[int, set[_Value]]) -> list[str]:
    several = [number for number, values in found.items() if len(values) > 1]
    words = f"{path.name} has contradicting rows of {len(several)} speakers, whose {column} counts as unknown"
    return [f"{words}: {listed(several)}"] if several else []


def _actor(text: str) -> int | None:
    match = _ACTOR.fullmatch(text)
    return int(match[1]) if match else None


def _sex(text: str, words: set[str]) -> str | None:
    """`M` is a woman's in a column that has `H` too: mujer and hombre."""
    word = text.casefold().rstrip(".")
    return None if word == "m" and "h" in words else _SEX_OF.get(word)


def _age(text: str) -> int | None:
    """In years; of a range its middle, if all of it is in one of the groups that are told of."""
    if match := _AGES.fullmatch(text):
        low, high = int(match[1]), int(match[2])
        inside = MIN_AGE <= low <= high <= MAX_AGE and age_group(low) == age_group(high)
        return (low + high) // 2 if inside else None
    match = _AGE.fullmatch(text)
    return int(match[1]) if match and MIN_AGE <= int(match[1]) <= MAX_AGE else None


def _clip(text: str) -> str | None:
    """With or without a folder and an ending, in any case."""
    stem = re.split(r"[/\\]", text)[-1].split(".", 1)[0]
    try:
        return str(ClipName.parse(stem.strip().upper()))
    except ClipError:
        return None
