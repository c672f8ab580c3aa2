"""The grammar of CREMA-D file names, in one place: `<actor>_<sentence>_<emotion>_<level>`.

Source: Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 2014,
and the corpus's own file list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from moretta.shared.core.errors import ClipError


class Emotion(StrEnum):
    """The six acted emotions, in the order used for class indices everywhere."""

    ANG = "ANG"
    DIS = "DIS"
    FEA = "FEA"
    HAP = "HAP"
    NEU = "NEU"
    SAD = "SAD"

    @property
    def class_index(self) -> int:
        """Class index, 0 to 5."""
        return EMOTIONS.index(self)


EMOTIONS: tuple[Emotion, ...] = tuple(Emotion)
VOTE_LETTERS: dict[str, Emotion] = {e.value[0]: e for e in EMOTIONS}
"""`summaryTable.csv` names emotions by their first letter: A, D, F, H, N, S."""


class Level(StrEnum):
    """Acted intensity; XX is unspecified."""

    LO = "LO"
    MD = "MD"
    HI = "HI"
    XX = "XX"


SENTENCES: dict[str, str] = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}

_NAME = re.compile(r"(?P<speaker>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{2})")
_GRAMMAR = "<4-digit actor>_<sentence>_<emotion>_<level>, such as 1001_IEO_ANG_HI"


@dataclass(frozen=True, order=True, slots=True)
class ClipName:
    """A parsed clip name.

    >>> ClipName.parse("1001_IEO_ANG_HI").emotion
    <Emotion.ANG: 'ANG'>
    >>> str(ClipName.parse("1001_IEO_ANG_HI"))
    '1001_IEO_ANG_HI'
    """

    speaker: int
    sentence: str
    emotion: Emotion
    level: Level

    @classmethod
    def parse(cls, stem: str) -> ClipName:
        """Parse a file name without its ending.

        Raises:
            ClipError: reason `bad-name` if `stem` is not in the grammar.
        """
        match = _NAME.fullmatch(stem)
        if match is None or not stem.isascii():
            raise ClipError("bad-name", f"the file name {stem!r}", expected=_GRAMMAR)
        sentence, emotion, level = match["sentence"], match["emotion"], match["level"]
        for word, known, what in (
            (sentence, SENTENCES, "sentence"),
            (emotion, Emotion.__members__, "emotion"),
            (level, Level.__members__, "level"),
        ):
            if word not in known:
                raise ClipError("bad-name", f"the {what} {word!r} in {stem!r}", expected=f"one of {', '.join(known)}")
        return cls(int(match["speaker"]), sentence, Emotion(emotion), Level(level))

    def __str__(self) -> str:
        return f"{self.speaker:04d}_{self.sentence}_{self.emotion}_{self.level}"
