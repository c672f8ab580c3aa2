"""Closed-set attackers with models of their own: Gaussian mixtures of frames, and likeness to each known clip."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Identifier, attacker, attacker_row
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.views import Vectors, face_picture, voice_statistics
from moretta.shared.core.array_types import Array, Bool, Float32, Float64, Int64

_COMPONENTS = 48
_FRAMES_PER_COMPONENT = 20  # clips of one code each have few: with a component for every clip nothing is learned
_RELEVANCE = 8.0  # frames that count as much as the mixture of all speakers
_BACKGROUND_FRAMES = 20_000
_FRAMES_PER_CLIP = 200


@attacker("voice-gmm", modality="voice")
class VoiceMixture(Identifier):
    """A Gaussian mixture of each speaker's frames, its means adapted a posteriori from the mixture of all speakers.

    A clip's score is the mean log-likelihood of its frames; no statistics of ours are needed. Source: Reynolds,
    Quatieri and Dunn, "Speaker verification using adapted Gaussian mixture models", DSP 2000.
    """

    cost: ClassVar[int] = 2

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Background mixture of all enrolment clips, then each speaker's means."""
        from sklearn.mixture import GaussianMixture

        self.speakers = clips.speakers
        frames = [_frames(clips, i) for i in range(len(clips))]
        together = np.concatenate(frames)
        self._mean, self._scale = together.mean(0), together.std(0) + 1e-3
        chosen = np.random.default_rng(seed).permutation(len(together))[:_BACKGROUND_FRAMES]
        components = max(1, min(_COMPONENTS, len(together) // _FRAMES_PER_COMPONENT))
        options = {"covariance_type": "diag", "reg_covar": 1e-2, "max_iter": 30, "tol": 1e-2, "random_state": seed}
        background = GaussianMixture(components, **options).fit(self._scaled(together[chosen]))
        self._variances, self._log_weights = background.covariances_, np.log(background.weights_ + 1e-12)
        self._background = background.means_
        own = [[f for f, y in zip(frames, clips.labels, strict=True) if y == s] for s in range(len(self.speakers))]
        self._means = [self._adapted(background, self._scaled(np.concatenate(of_speaker))) for of_speaker in own]

    def scores(self, clips: ClipSet) -> Float32:
        """Mean log-likelihood ratios to the background, times the root of the frames' number, [clips, speakers]."""
        rows = []
        for i in range(len(clips)):
            frames = self._scaled(_frames(clips, i))
            base = self._likelihood(frames, self._background)
            ratios = [(self._likelihood(frames, means) - base).mean() for means in self._means]
            rows.append(np.asarray(np.array(ratios) * np.sqrt(len(frames)), np.float32))
        return np.stack(rows)

    def _scaled(self, frames: Array) -> Float64:
        return np.asarray((frames.astype(np.float64) - self._mean) / self._scale)

    @staticmethod
    def _adapted(background: Any, scaled: Float64) -> Float64:
        share = background.predict_proba(scaled)  # [frames, components]
        return np.asarray((share.T @ scaled + _RELEVANCE * background.means_) / (share.sum(0)[:, None] + _RELEVANCE))

    def _likelihood(self, frames: Float64, means: Float64) -> Float64:
        """float64 [frames], up to a constant of the shared variances."""
        precision = 1 / self._variances
        distance = (frames**2) @ precision.T - 2 * frames @ (means * precision).T + (means**2 * precision).sum(1)
        exponent = self._log_weights - (distance + np.log(self._variances).sum(1)) / 2  # [frames, components]
        top = exponent.max(1)
        return np.asarray(top + np.log(np.exp(exponent - top[:, None]).sum(1)))


def _frames(clips: ClipSet, index: int) -> Float32:
    """float32 [up to 200, 2 coefficients]: frames spread over the clip, each with its slope."""
    mfcc = clips.mfcc(index)
    frames = np.hstack([mfcc, np.gradient(mfcc, axis=0) if len(mfcc) > 1 else np.zeros_like(mfcc)])
    chosen = np.unique(np.linspace(0, len(frames) - 1, _FRAMES_PER_CLIP).round().astype(int))
    return np.asarray(frames[chosen], np.float32)


_BLOCK_CLIPS = 256
_MOST_EXAMPLES = 1_000
_RIDGE = 1.0
_NOBODY = -9.0
"""Likeness to a person without usable clips: less than any other."""


class _Gallery:
    """Enrolled clips, and how like them others are: `x` [clips, d] standardised, `speakers` and `emotions` [clips]."""

    def __init__(self, x: Float64, speakers: Int64, emotions: Int64, classes: int) -> None:
        self._x, self._speakers = x, speakers
        self._shape = int(speakers.max()) + 1, classes
        self._cells = np.eye(self._shape[0] * classes)[speakers * classes + emotions]  # [clips, people * emotions]
        self._width = 2 * max(float(x.var(axis=0).sum()), 1e-9)

    def likeness(self, x: Float64, emotions: Int64, looked_at: Bool | None = None) -> Float64:
        """Several likenesses of clips x [n, d] to each person, relative to the mean over people: [n, people, 9].

        `looked_at`: bool [n, clips], which enrolled clips each may be compared with; None means all.
        """
        looked_at = np.ones((len(x), len(self._x)), bool) if looked_at is None else looked_at
        squares = (x**2).sum(axis=1)[:, None] + (self._x**2).sum(axis=1) - 2 * x @ self._x.T
        distance = np.maximum(squares, 0) / self._width  # [n, clips]
        lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(self._x, axis=1)
        cosine = (x @ self._x.T) / np.maximum(lengths, 1e-9)
        found = [self._mean(-distance, looked_at)]
        for alike in (cosine, np.exp(-distance)):
            found += [*self._by_emotion(alike, emotions, looked_at), self._mean(alike, looked_at)]
            seen = np.where(looked_at, alike, _NOBODY)
            greatest = [seen[:, self._speakers == person].max(axis=1) for person in range(self._shape[0])]
            found.append(np.stack(greatest, axis=1))
        features = np.stack(found, axis=2)
        return np.asarray(features - features.mean(axis=1, keepdims=True))

    def _by_emotion(self, alike: Float64, emotions: Int64, looked_at: Bool) -> tuple[Float64, Float64]:
        """Means over clips of the same emotion, and of all other emotions, each [n, people]."""
        sums, counts = (
            (weights @ self._cells).reshape(len(alike), *self._shape) for weights in (alike * looked_at, looked_at)
        )
        rows = np.arange(len(alike))
        same, of_same = sums[rows, :, emotions], counts[rows, :, emotions]
        other, of_other = sums.sum(axis=2) - same, counts.sum(axis=2) - of_same
        return same / np.maximum(of_same, 1), other / np.maximum(of_other, 1)

    def _mean(self, alike: Float64, looked_at: Bool) -> Float64:
        people = self._cells.reshape(len(self._x), *self._shape).sum(axis=2)
        return np.asarray(((alike * looked_at) @ people) / np.maximum(looked_at @ people, 1))


class LikenessIdentifier(Identifier):
    """A conditional logit on likenesses to enrolled clips, learned from these, each against all the others.

    A release can pull a person's clips together where they share an emotion and push them apart everywhere else, as
    normalizing few clips in many dimensions does: the two cancel for a classifier that looks at all clips alike. Here
    they are kept apart, and weighed by nine numbers that are the same for all people, so that few clips suffice.
    """

    cost: ClassVar[int] = 2
    features: ClassVar[Vectors]

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the weights as they will be used in the attack: across sentences."""
        from sklearn.preprocessing import StandardScaler

        self.speakers = clips.speakers
        vectors = type(self).features(clips)
        self._scale = StandardScaler().fit(vectors)
        x, emotions = self._scale.transform(vectors).astype(np.float64), clips.emotions
        self._gallery = _Gallery(x, clips.labels, emotions, len(clips.classes))
        few = np.sort(np.random.default_rng(seed).permutation(len(x))[:_MOST_EXAMPLES])
        features = self._gallery.likeness(x[few], emotions[few], _others(clips)[few])
        self._spread = features.std(axis=(0, 1)) + 1e-9
        self._weights = _conditional_logit(features / self._spread, clips.labels[few])

    def scores(self, clips: ClipSet) -> Float32:
        """Log-posteriors, [clips, speakers]."""
        x, emotions = self._scale.transform(type(self).features(clips)).astype(np.float64), clips.emotions
        blocks = clips.batches(_BLOCK_CLIPS)
        found = [self._gallery.likeness(x[b], emotions[b]) / self._spread @ self._weights for b in blocks]
        return np.concatenate(found).astype(np.float32)


attacker_row("voice-likeness", LikenessIdentifier, modality="voice", features=staticmethod(voice_statistics))
attacker_row("face-likeness", LikenessIdentifier, modality="face", features=staticmethod(face_picture))


def _others(clips: ClipSet) -> Bool:
    """[clips, clips]: those of other sentences; where somebody has none, all but the clip itself."""
    sentences = np.array([clip.sentence for clip in clips.clips])
    apart = sentences[:, None] != sentences
    own = clips.labels[:, None] == clips.labels
    return np.asarray(apart) if (apart & own).any(axis=1).all() else ~np.eye(len(clips), dtype=bool)


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

    return np.asarray(minimize(loss, np.zeros(features.shape[2]), jac=True, method="L-BFGS-B").x)
