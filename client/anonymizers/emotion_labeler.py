"""Emotion labels of clips by ranks within the speaker, from models that were not trained on that speaker.

A model that was trained on a speaker's own clips would know their emotions by heart, and its labels would flatter
whoever measures utility.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.release.anonymizer import Speaker
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, Rules, taken

Matrix = Float32
Labelled = Mapping[Speaker, tuple[Float64, Int64]]
"""Speaker -> ranks [clips, n] and class indices [clips]."""

LABELS = len(EMOTIONS)
FEWEST_SPEAKERS = 3
"""Fewest speakers of a site that trains the labeler: two train it for the third."""
CEILING = 0.75
"""Quantile of speakers above which right labels are replaced, so that no speaker has right labels much more often."""
ARRAYS = ("voice/emotion-labels/spread", "voice/emotion-labels/weights", "voice/emotion-labels/bias")
_GROUPS = 12
"""Speakers are left out in so many groups at most, which bounds how many models there are."""
_STRENGTH = 0.01
"""Inverse of the penalty on squared weights: measurements are many, and training speakers are few."""
_NEVER = -1e6
"""Bias of an emotion without training clips."""
_LARGEST_WEIGHT = 1e4


@dataclass(frozen=True, slots=True, eq=False)
class EmotionLabeler:
    """A linear model from ranks within the speaker to a label: weights [n, 6] and bias [6].

    The ranks are made with `spread` [n], public standard deviations of the measurements within a speaker.
    """

    spread: Matrix
    weights: Matrix
    bias: Matrix

    def __call__(self, places: Array) -> npt.NDArray[np.int32]:
        """int32 [m], class indices in the order of `EMOTIONS`, of ranks [m, n]."""
        scores = np.asarray(places, np.float64) @ self.weights.astype(np.float64) + self.bias
        return np.asarray(np.argmax(scores, axis=1), np.int32)

    def to_arrays(self, names: tuple[str, ...] = ARRAYS) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        return dict(zip(names, (self.spread, self.weights, self.bias), strict=True))

    @classmethod
    def rules(cls, names: tuple[str, ...] = ARRAYS, width: int = len(MEASUREMENTS)) -> Rules:
        """Rules for the public arrays, by name: shapes and bounds for `width` measurements of a clip."""
        spread = Rule((width,), _LARGEST_WEIGHT, LEAST_SPREAD)
        rules = (spread, Rule((width, LABELS), _LARGEST_WEIGHT), Rule((LABELS,), -_NEVER))
        return dict(zip(names, rules, strict=True))

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], names: tuple[str, ...] = ARRAYS, width: int = len(MEASUREMENTS)
    ) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(*taken(arrays, cls.rules(names, width)))

    @classmethod
    def learn(cls, places: Array, emotions: Int64, spread: Matrix) -> Self:
        """Logistic regression, all emotions weighted alike however many clips each has.

        Args:
            places: [clips, n], ranks of each clip within its speaker.
            emotions: int64 [clips], class indices, two at least. One that no clip has is never predicted.
            spread: float32 [n], which the ranks were made with.
        """
        from sklearn.linear_model import LogisticRegression

        shown = np.unique(emotions)
        if len(shown) < 2:
            found = f"clips of {len(shown)} emotions to train emotion labels on"
            raise StudyError(found, expected="clips of several emotions")
        fitted = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=5_000).fit(places, emotions)
        rows, offsets = fitted.coef_, fitted.intercept_
        if len(shown) == 2:  # then there is one row, for the second against the first
            rows, offsets = np.vstack([-rows, rows]), np.concatenate([-offsets, offsets])
        weights, bias = np.zeros((len(spread), LABELS), np.float32), np.full(LABELS, np.float32(_NEVER))
        weights[:, shown], bias[shown] = rows.T, offsets
        return cls(spread, weights, bias)

    @classmethod
    def of_public(cls, rows: PublicRows) -> Self:
        """A labeler trained on public speech."""
        return cls.learn(rows.places(), rows.emotion, rows.spread())


def uniform_errors(predicted: npt.NDArray[np.int32], labels: Int64, uniform: Float64) -> npt.NDArray[np.int32]:
    """Right labels as they are; in place of any other, one of the five others at random.

    Which emotion a clip is mistaken for is the speaker's own, and says nothing of the emotion of the clip. No label
    becomes right or wrong by it.

    Args:
        predicted: int32 [m], class indices.
        labels: int64 [m], as the release states them.
        uniform: float64 [m], secret random numbers in [0, 1).
    """
    step = 1 + np.minimum(np.floor(uniform * (LABELS - 1)), LABELS - 2).astype(np.int64)
    return np.where(predicted == labels, predicted, (labels + step) % LABELS).astype(np.int32)


def leave_one_speaker_out(clips: Labelled, spread: Matrix) -> dict[Speaker, EmotionLabeler]:
    """A labeler for each speaker that was trained on the other groups of speakers. Raises StudyError: too few speakers,
    or fewer than two emotions of the others."""
    speakers, labelers = sorted(clips), dict[Speaker, EmotionLabeler]()
    if len(speakers) < FEWEST_SPEAKERS:
        raise StudyError(
            f"emotion labels to be trained on {len(speakers)} people at this site",
            expected=f"at least {FEWEST_SPEAKERS}: a speaker's own clips have no part in that speaker's labels",
            fix='set `labels_from = "public"` in the options of the anonymizer, or bring more people',
        )
    groups = min(_GROUPS, len(speakers))
    for first in range(groups):
        left_out = speakers[first::groups]
        others = [clips[speaker] for speaker in speakers if speaker not in left_out]
        places, emotions = (np.concatenate(parts) for parts in zip(*others, strict=True))
        labelers |= dict.fromkeys(left_out, EmotionLabeler.learn(places, emotions, spread))
    return labelers


def ceilings(clips: Labelled, labelers: Mapping[Speaker, EmotionLabeler]) -> dict[tuple[Speaker, int], float]:
    """The probability that a right label of a speaker and an emotion may be released as right; 1 where none is given.

    How often a speaker's clips of an emotion are labelled right identifies the speaker to whoever pools many labels.
    Speakers whose emotions are recognized more often than others' are brought down to what is usual; nobody is brought
    up.
    """
    rates: dict[int, dict[Speaker, float]] = defaultdict(dict)
    for speaker, (places, labels) in clips.items():
        predicted = labelers[speaker](places)
        for emotion in np.unique(labels):
            rates[int(emotion)][speaker] = float(np.mean(predicted[labels == emotion] == emotion))
    stays = {}
    for emotion, of_speakers in rates.items():
        for speaker, rate in of_speakers.items():
            others = [other for one, other in of_speakers.items() if one != speaker]
            if others and rate:
                stays[speaker, emotion] = min(1.0, float(np.quantile(others, CEILING)) / rate)
    return stays
