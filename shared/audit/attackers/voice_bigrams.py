"""Which sounds follow which: counts of a codebook of the attacker's own. What is left of a voice in mere tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier

_CODES = 32
_FRAMES = 10_000


@attacker("voice-bigrams", modality="voice")
class VoiceBigrams(VectorIdentifier):
    """Logistic regression on the shares of single codes and of pairs.

    On quantized voice it finds the codebook again.
    """

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"C": (0.01, 0.001)}
    cost: ClassVar[int] = 2

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Codebook by k-means on the attacker's clips, then the classifier."""
        from sklearn.cluster import MiniBatchKMeans

        frames = np.concatenate([clips.mfcc(i) for i in range(len(clips))])
        chosen = np.random.default_rng(seed).permutation(len(frames))[:_FRAMES]
        distinct = len(np.unique(frames[chosen], axis=0))
        self._scale = frames.std(0) + 1e-3
        codebook = MiniBatchKMeans(min(_CODES, distinct), n_init=1, random_state=seed).fit(frames[chosen] / self._scale)
        self._centroids = codebook.cluster_centers_.astype(np.float32)
        super().fit(clips, seed=seed)

    def vectors(self, clips: ClipSet) -> Floats:
        """Square roots of shares, which evens out their variances, [clips, codes + codes * codes]."""
        return np.stack([self._counts(clips.mfcc(i) / self._scale) for i in range(len(clips))])

    def classifier(self, seed: int) -> Any:
        """Logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=200, random_state=seed)

    def _counts(self, frames: Floats) -> Floats:
        codes = len(self._centroids)
        distance = (self._centroids**2).sum(1) - 2 * frames @ self._centroids.T  # [frames, codes]
        nearest = distance.argmin(1)
        single = np.bincount(nearest, minlength=codes)
        pairs = np.bincount(nearest[:-1] * codes + nearest[1:], minlength=codes * codes)
        shares = np.concatenate([single / len(frames), pairs / max(1, len(frames) - 1)])
        return np.asarray(np.sqrt(shares), np.float32)
