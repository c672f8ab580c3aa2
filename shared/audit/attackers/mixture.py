"""A Gaussian mixture of each speaker's frames, adapted from one of all speakers: needs no statistics of ours.

Source: Reynolds, Quatieri and Dunn, "Speaker verification using adapted Gaussian mixture models", DSP 2000.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Identifier, attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Array, Float32, Float64

_COMPONENTS = 48
_FRAMES_PER_COMPONENT = (
    20  # of clips that are one code each there are few: with a component for every clip nothing is learned
)
_RELEVANCE = 8.0  # frames that count as much as the mixture of all speakers
_BACKGROUND_FRAMES = 20_000
_FRAMES_PER_CLIP = 200


@attacker("voice-gmm", modality="voice")
class VoiceMixture(Identifier):
    """Means adapted a posteriori; a clip's score is the mean log-likelihood of its frames."""

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
        background = GaussianMixture(
            components, covariance_type="diag", reg_covar=1e-2, max_iter=30, tol=1e-2, random_state=seed
        )
        background.fit(self._scaled(together[chosen]))
        self._variances, self._log_weights = background.covariances_, np.log(background.weights_ + 1e-12)
        self._background = background.means_
        labels = clips.labels
        self._means = np.stack(
            [
                self._adapt(background, np.concatenate([f for f, y in zip(frames, labels, strict=True) if y == s]))
                for s in range(len(self.speakers))
            ]
        )

    def scores(self, clips: ClipSet) -> Float32:
        """Mean log-likelihood ratios to the background, times the root of the frames' number, [clips, speakers]."""
        return np.stack([self._ratios(self._scaled(_frames(clips, i))) for i in range(len(clips))])

    def _scaled(self, frames: Array) -> Float64:
        scaled: Float64 = (frames.astype(np.float64) - self._mean) / self._scale
        return scaled

    def _adapt(self, background: Any, frames: Array) -> Float64:
        scaled = self._scaled(frames)
        share = background.predict_proba(scaled)  # [frames, components]
        count = share.sum(0)[:, None]
        adapted: Float64 = (share.T @ scaled + _RELEVANCE * background.means_) / (count + _RELEVANCE)
        return adapted

    def _ratios(self, frames: Float64) -> Float32:
        base = self._likelihood(frames, self._background)
        ratios = [(self._likelihood(frames, means) - base).mean() for means in self._means]
        return np.asarray(np.array(ratios) * np.sqrt(len(frames)), np.float32)

    def _likelihood(self, frames: Float64, means: Float64) -> Float64:
        """float64 [frames], up to a constant of the shared variances."""
        precision = 1 / self._variances
        distance = (
            (frames**2) @ precision.T
            - 2 * frames @ (means * precision).T
            + (means**2 * precision).sum(1)
            + np.log(self._variances).sum(1)
        )
        exponent = self._log_weights - distance / 2  # [frames, components]
        top = exponent.max(1)
        summed: Float64 = top + np.log(np.exp(exponent - top[:, None]).sum(1))
        return summed


def _frames(clips: ClipSet, index: int) -> Float32:
    """float32 [up to 200, 2 coefficients]: frames spread over the clip, each with its slope."""
    mfcc = clips.mfcc(index)
    frames = np.hstack([mfcc, np.gradient(mfcc, axis=0) if len(mfcc) > 1 else np.zeros_like(mfcc)])
    chosen = np.unique(np.linspace(0, len(frames) - 1, _FRAMES_PER_CLIP).round().astype(int))
    return np.asarray(frames[chosen], np.float32)
