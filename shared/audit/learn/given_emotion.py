"""Identity given emotion: what a clip tells of a person once it is known in which emotion it was said.

A release states the emotion of every clip, and an attacker reads it. An anonymizer that keeps emotion moves clips far
by it, and may hide what is different about a person's anger from a classifier that does not know that it is anger.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Floats
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.data.clip_names import EMOTIONS

_COMPONENTS = 256
_PRIOR_CLIPS = 2.0
"""Clips that pull an emotion's mean towards the mean of all."""


class WithinEmotion:
    """Vectors without their emotion's mean, once for all emotions and once more for each of them alone.

    A linear classifier of the result has one set of weights for every emotion, and a common one. Principal components
    are there to save time only; they keep their spread.
    """

    def fit(self, x: npt.NDArray[Any], emotions: npt.NDArray[np.int64]) -> WithinEmotion:
        """Learn scale, principal components and emotion means of vectors [n, d] and class indices [n]."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        components = min(_COMPONENTS, len(x), x.shape[1])
        self._reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full")).fit(x)
        reduced = self._reduce.transform(x)
        # Components are centred, so the mean of all, towards which the few clips of an emotion are pulled, is 0.
        sums = np.stack([reduced[emotions == number].sum(axis=0) for number in range(len(EMOTIONS))])
        counts = np.bincount(emotions, minlength=len(EMOTIONS))[:, None]
        self._means = sums / (counts + _PRIOR_CLIPS)
        return self

    def transform(self, x: npt.NDArray[Any], emotions: npt.NDArray[np.int64]) -> Floats:
        """[n, d] to [n, 7 components]."""
        rest = self._reduce.transform(x) - self._means[emotions]
        own = emotions[:, None] == np.arange(len(EMOTIONS))  # [n, emotions]
        apart = (own[:, :, None] * rest[:, None]).reshape(len(rest), -1)
        return np.hstack([rest, apart]).astype(np.float32)


class EmotionAwareIdentifier(VectorIdentifier):
    """Logistic regression on what is left of vectors within each emotion, as the release labels it."""

    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"C": (0.1, 0.01, 1.0)}
    cost: ClassVar[int] = 2

    @abstractmethod
    def plain_vectors(self, clips: ClipSet) -> Floats:
        """float32 [clips, d], of which emotion is taken out."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the means of emotions on the enrolment clips, then the classifier."""
        self._within = WithinEmotion().fit(self.plain_vectors(clips), emotions_of(clips))
        super().fit(clips, seed=seed)

    def vectors(self, clips: ClipSet) -> Floats:
        """See `WithinEmotion.transform`."""
        return self._within.transform(self.plain_vectors(clips), emotions_of(clips))

    def pipeline(self, seed: int) -> Any:
        """The classifier alone: components brought to one spread would be noise for the most part."""
        from sklearn.pipeline import Pipeline

        return Pipeline([("classify", self.classifier(seed))])

    def classifier(self, seed: int) -> Any:
        """Logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=300, random_state=seed)


def emotions_of(clips: ClipSet) -> npt.NDArray[np.int64]:
    """int64 [clips]: class index of the emotion that the release states."""
    return np.array([clip.emotion.class_index for clip in clips.clips], np.int64)
