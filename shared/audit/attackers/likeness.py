"""Identity by likeness to each known clip, where the kind of likeness that counts is learned.

A release can pull a person's clips together where they share an emotion and push them apart everywhere else, as
normalizing few clips in many dimensions does: the two cancel for a classifier that looks at all clips alike. Here they
are kept apart, and weighed by nine numbers that are the same for all people, so that few clips suffice.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Identifier, attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.views import face_picture, voice_statistics
from moretta.shared.core.array_types import Bool, Float32, Float64, Int64

_BLOCK_CLIPS = 256
_MOST_EXAMPLES = 1_000
_RIDGE = 1.0
_NOBODY = -9.0
"""Likeness to clips of a person of whom none may be looked at: less than any."""


class Gallery:
    """Enrolled clips, and how like them others are.

    Args:
        x: [clips, d], standardised.
        speakers: [clips], from 0 on.
        emotions: [clips], class indices.
    """

    def __init__(self, x: Float64, speakers: Int64, emotions: Int64, classes: int) -> None:
        self._x, self._speakers, self._emotions, self._classes = x, speakers, emotions, classes
        self._people = int(speakers.max()) + 1
        cell = speakers * classes + emotions
        self._cells = np.eye(self._people * classes)[cell]  # [clips, people * emotions]
        self._width = 2 * max(float(x.var(axis=0).sum()), 1e-9)

    def likeness(self, x: Float64, emotions: Int64, looked_at: Bool | None = None) -> Float64:
        """[n, people, 9]: several likenesses of clips to each person, relative to the mean over people.

        Args:
            x: [n, d].
            emotions: [n].
            looked_at: [n, clips], which enrolled clips each may be compared with; None means all.
        """
        looked_at = np.ones((len(x), len(self._x)), bool) if looked_at is None else looked_at
        squares = (x**2).sum(axis=1)[:, None] + (self._x**2).sum(axis=1) - 2 * x @ self._x.T
        distance = np.maximum(squares, 0) / self._width  # [n, clips]
        cosine = (x @ self._x.T) / np.maximum(
            np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(self._x, axis=1), 1e-9
        )
        found = [self._mean(-distance, looked_at)]
        for alike in (cosine, np.exp(-distance)):
            found += [*self._by_emotion(alike, emotions, looked_at), self._mean(alike, looked_at)]
            found.append(self._greatest(alike, looked_at))
        features = np.stack(found, axis=2)
        return np.asarray(features - features.mean(axis=1, keepdims=True))

    def _by_emotion(self, alike: Float64, emotions: Int64, looked_at: Bool) -> tuple[Float64, Float64]:
        """Means over clips of the same emotion, and of all other emotions, each [n, people]."""
        shape = (len(alike), self._people, self._classes)
        sums = ((alike * looked_at) @ self._cells).reshape(shape)
        counts = (looked_at @ self._cells).reshape(shape)
        rows = np.arange(len(alike))
        same, of_same = sums[rows, :, emotions], counts[rows, :, emotions]
        other, of_other = sums.sum(axis=2) - same, counts.sum(axis=2) - of_same
        return same / np.maximum(of_same, 1), other / np.maximum(of_other, 1)

    def _mean(self, alike: Float64, looked_at: Bool) -> Float64:
        people = self._cells.reshape(len(self._x), self._people, self._classes).sum(axis=2)
        return np.asarray(((alike * looked_at) @ people) / np.maximum(looked_at @ people, 1))

    def _greatest(self, alike: Float64, looked_at: Bool) -> Float64:
        seen = np.where(looked_at, alike, _NOBODY)
        return np.stack([seen[:, self._speakers == person].max(axis=1) for person in range(self._people)], axis=1)


class LikenessIdentifier(Identifier):
    """A conditional logit on likenesses, learned from enrolled clips, each against all the others."""

    cost: ClassVar[int] = 2

    @staticmethod
    @abstractmethod
    def features(clips: ClipSet) -> Float32:
        """float32 [clips, d]."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the weights as they will be used in the attack: across sentences."""
        from sklearn.preprocessing import StandardScaler

        self.speakers = clips.speakers
        vectors = self.features(clips)
        self._scale = StandardScaler().fit(vectors)
        x, emotions = self._scale.transform(vectors).astype(np.float64), clips.emotions
        self._gallery = Gallery(x, clips.labels, emotions, len(clips.classes))
        few = np.sort(np.random.default_rng(seed).permutation(len(x))[:_MOST_EXAMPLES])
        features = self._gallery.likeness(x[few], emotions[few], _others(clips)[few])
        self._spread = features.std(axis=(0, 1)) + 1e-9
        self._weights = _conditional_logit(features / self._spread, clips.labels[few])

    def scores(self, clips: ClipSet) -> Float32:
        """Log-posteriors, [clips, speakers]."""
        x, emotions = self._scale.transform(self.features(clips)).astype(np.float64), clips.emotions
        blocks = [slice(start, start + _BLOCK_CLIPS) for start in range(0, len(x), _BLOCK_CLIPS)]
        found = [self._gallery.likeness(x[b], emotions[b]) / self._spread @ self._weights for b in blocks]
        return np.concatenate(found).astype(np.float32)


@attacker("voice-likeness", modality="voice")
class VoiceLikeness(LikenessIdentifier):
    """On statistics of MFCC, or codes."""

    features = staticmethod(voice_statistics)


@attacker("face-likeness", modality="face")
class FaceLikeness(LikenessIdentifier):
    """On gradients, mean frame and movement."""

    features = staticmethod(face_picture)


def _others(clips: ClipSet) -> Bool:
    """[clips, clips]: those of other sentences; where somebody has none, all but the clip itself."""
    sentences = np.array([clip.sentence for clip in clips.clips])
    apart = sentences[:, None] != sentences
    own = clips.labels[:, None] == clips.labels
    if (apart & own).any(axis=1).all():
        return np.asarray(apart)
    return ~np.eye(len(clips), dtype=bool)


def _conditional_logit(features: Float64, chosen: Int64) -> Float64:
    """Weights [f] under which the speaker `chosen` [n] among features [n, people, f] is likeliest, with a ridge."""
    from scipy.optimize import minimize

    rows = np.arange(len(features))
    right = features[rows, chosen].sum(axis=0)

    def loss(weights: Float64) -> tuple[float, Float64]:
        scores = features @ weights
        scores -= scores.max(axis=1, keepdims=True)
        posterior = np.exp(scores)
        posterior /= posterior.sum(axis=1, keepdims=True)
        value = -np.log(posterior[rows, chosen] + 1e-12).sum() + _RIDGE * weights @ weights
        return float(value), np.einsum("ns,nsf->f", posterior, features) - right + 2 * _RIDGE * weights

    found: Float64 = minimize(loss, np.zeros(features.shape[2]), jac=True, method="L-BFGS-B").x
    return found
