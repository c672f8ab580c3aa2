"""Which of six emotions a clip sounds like, told relative to its person: the words of the anonymizer
`emotion-label-rr`.

A linear model over the places of a clip's measurements among the person's other clips. It is learnt on people who are
not the one whose clips are told: on public speech, or on the other people of a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_arrays import LEAST_SPREAD, Rule, Rules, taken
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.features.speaker_ranks import SpeakerRanks

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

LABELS = len(EMOTIONS)
_STRENGTH = 0.01
"""Inverse of the penalty on squared weights: measurements are many, and people who teach are few."""
_NEVER = -1e6
"""Bias of an emotion that nobody showed."""
_LARGEST_WEIGHT = 1e4
_NAMES = ("spread", "weights", "bias")


@dataclass(frozen=True, slots=True, eq=False)
class EmotionLabeler:
    """From places among a person's clips to a word.

    Args:
        spread: float32 [n], of the measurements: public standard deviations within a person.
        weights: float32 [n, 6].
        bias: float32 [6].
    """

    spread: Matrix
    weights: Matrix
    bias: Matrix

    def __call__(self, places: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """int32 [m], class indices in the order of `EMOTIONS`, of places [m, n]."""
        scores = np.asarray(places, np.float64) @ self.weights.astype(np.float64) + self.bias
        return np.asarray(np.argmax(scores, axis=1), np.int32)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        return {f"voice/emotion-labels/{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def rules(cls) -> Rules:
        """What each array may be."""
        width = len(MEASUREMENTS)
        rules = (
            Rule((width,), _LARGEST_WEIGHT, LEAST_SPREAD),
            Rule((width, LABELS), _LARGEST_WEIGHT),
            Rule((LABELS,), -_NEVER),
        )
        return {f"voice/emotion-labels/{name}": rule for name, rule in zip(_NAMES, rules, strict=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: an array is missing, of another shape, or holds values that cannot be.
        """
        return cls(*taken(arrays, cls.rules()))

    @classmethod
    def learn(cls, places: npt.NDArray[Any], emotions: npt.NDArray[np.int64], spread: Matrix) -> Self:
        """Logistic regression, all emotions alike however many clips each has.

        Args:
            places: [clips, n], of each clip among its person's.
            emotions: int64 [clips], class indices. One that nobody showed is never told.
            spread: float32 [n], which the places were made with.

        Raises:
            StudyError: fewer than two emotions.
        """
        from sklearn.linear_model import LogisticRegression

        shown = np.unique(emotions)
        if len(shown) < 2:
            raise StudyError(
                f"clips of {len(shown)} emotions to learn emotion words from", expected="clips of several emotions"
            )
        fitted = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=5_000).fit(places, emotions)
        rows, offsets = fitted.coef_, fitted.intercept_
        if len(shown) == 2:  # then there is one row, for the second against the first
            rows, offsets = np.vstack([-rows, rows]), np.concatenate([-offsets, offsets])
        weights, bias = np.zeros((len(spread), LABELS), np.float32), np.full(LABELS, np.float32(_NEVER))
        weights[:, shown], bias[shown] = rows.T, offsets
        return cls(spread, weights, bias)

    @classmethod
    def of_public(cls, rows: PublicRows) -> Self:
        """Learn on public speech."""
        return cls.learn(rows.places(), rows.emotion, rows.spread())


def uniform_errors(
    predicted: npt.NDArray[np.int32], labels: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.int32]:
    """Words that are their clip's label as they are; in place of any other, one of the five others at random.

    Which emotion a clip is mistaken for is the person's own, and says nothing of the emotion that it is in. No word
    becomes right or wrong by it.

    Args:
        words: int32 [m], class indices.
        labels: int64 [m], as the release states them beside the words.
        uniform: float64 [m], secret random numbers in [0, 1).
    """
    step = 1 + np.minimum(np.floor(uniform * (LABELS - 1)), LABELS - 2).astype(np.int64)
    return np.where(predicted == labels, predicted, (labels + step) % LABELS).astype(np.int32)


def places_among(known: npt.NDArray[Any], values: npt.NDArray[Any], spread: npt.NDArray[Any]) -> Floats:
    """[m, n]: where a person's measurements [m, n] lie among those that are known of the person, [clips, n].

    All known clips count alike. Weights of their own, which `speaker-normalized` gives them, cost emotion, and what
    they hide is how places add up, which no word tells.
    """
    return SpeakerRanks.of(known, np.ones(len(known)), spread)(values)
