"""Names of speakers and of classes: the six emotions of CREMA-D, unless a study names others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_CLASSES = 32


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


SpeakerId = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=200)]
"""Name of a speaker in the corpus, such as `1001` in CREMA-D. Files of earlier versions hold it as a number."""
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}$")]
Classes = Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=MAX_CLASSES)]
"""The labels that a study distinguishes. Class indices follow this order everywhere."""
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
"""A short name of a sentence or of a level of intensity: it leaves the site with the release."""


class Emotion(StrEnum):
    """The six acted emotions of CREMA-D, in its order."""

    ANG = "ANG"
    DIS = "DIS"
    FEA = "FEA"
    HAP = "HAP"
    NEU = "NEU"
    SAD = "SAD"


EMOTIONS: tuple[str, ...] = tuple(emotion.value for emotion in Emotion)
"""The classes of a study that names none."""
ORIGINAL_CLASSES = ("ANG", "HAP", "SAD")
"""The classes of the original study, whose result is reported separately where a study has these and others."""

_TEXTS = {
    "ANG": ("anger", "angry"),
    "DIS": ("disgust", "disgusted"),
    "FEA": ("fear", "fearful", "afraid"),
    "HAP": ("happiness", "happy", "joy"),
    "NEU": ("neutral", "neutrality"),
    "SAD": ("sadness", "sad"),
}
_EMOTION_OF = {word: emotion for emotion, words in _TEXTS.items() for word in (emotion.casefold(), *words)}


def class_of(text: str, classes: Sequence[str]) -> str | None:
    """The class that a label names, in any case or as another word for the same emotion; None if there is none.

    >>> class_of("angry", EMOTIONS), class_of("Bored", ("calm", "bored")), class_of("bored", EMOTIONS)
    ('ANG', 'bored', None)
    """
    word = text.strip().casefold()
    exact = next((name for name in classes if name.casefold() == word), None)
    if exact is not None or word not in _EMOTION_OF:
        return exact
    return next((name for name in classes if _EMOTION_OF.get(name.casefold()) == _EMOTION_OF[word]), None)


def original_columns(classes: Sequence[str]) -> tuple[int, ...]:
    """Class indices of `ORIGINAL_CLASSES`, or nothing if these are not some of several classes."""
    known = len(classes) > len(ORIGINAL_CLASSES) and set(ORIGINAL_CLASSES) <= set(classes)
    return tuple(classes.index(name) for name in ORIGINAL_CLASSES) if known else ()


def classes_among(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes of clips of which no study is known: CREMA-D's six if all labels are among them."""
    found = sorted(set(labels))
    return EMOTIONS if set(found) <= set(EMOTIONS) else tuple(found)


def in_order(speakers: Iterable[SpeakerId]) -> list[SpeakerId]:
    """Sorted, numbers by their value and before names."""
    return sorted(speakers, key=lambda speaker: (not speaker.isdecimal(), len(speaker) * speaker.isdecimal(), speaker))
