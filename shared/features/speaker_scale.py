"""One person's measures on a scale that everybody shares: only differences from the person's usual values are left.

Every dimension is mapped by its rank among the person's own frames to a standard normal value. This removes the
person's mean, spread and shape of the distribution. With few clips the ranks alone would say nothing: of two clips, one
is always above the other. So public frames, as many as of some clips, are ranked too, moved to the person's estimated
middle.

Centring alone leaves a trace: all clips of a person sum to nothing. If clips vary by v, any two of n have the
covariance -v/(n + k), k being the public frames' clips. Hence a secret offset for each person, drawn once, with the
variance v/(n + k) by which the person's middle is uncertain: their covariance is then 0, as that of strangers' clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.errors import ReleaseError
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.study.public_arrays import are_finite

Measures = npt.NDArray[np.floating[Any]]
"""[frames, dimensions]."""
PUBLIC_CLIPS = 4.0
"""How many clips of the person's own the public frames count as much as: the ratio of the variance of one person's
clips to that of people's means, with which the estimate of a person's middle is best (James and Stein, 1961)."""
LEVELS = 65
"""Ranks at which a distribution is kept."""
_RANKS = (np.arange(LEVELS) + 0.5) / LEVELS
CLIP_VARIANCE = 0.35
"""Of the means of one person's clips, in normal values: between what public people show in one emotion (0.25), which
hides a person from an attacker who knows emotions, and in all (0.75), which hides from one who does not."""
WIDEST = 3.0
"""Normal values beyond it are cut."""


@dataclass(frozen=True, eq=False)
class PublicMeasures:
    """How public people's measures are distributed, each person's around that person's own middle.

    `quantiles` are [LEVELS, dimensions]; `middle` [dimensions] is the mean over people of their means.
    """

    quantiles: Float64
    middle: Float64

    @classmethod
    def of(cls, people: Sequence[Sequence[Measures]]) -> Self:
        """Measures of public people, from their clips, each [frames, dimensions]."""
        means = [np.mean([clip.mean(0) for clip in clips], axis=0) for clips in people]
        middle = np.mean(means, axis=0)
        centred = [clip - mean + middle for clips, mean in zip(people, means, strict=True) for clip in clips]
        return cls(np.quantile(np.concatenate(centred), _RANKS, axis=0), np.asarray(middle))

    def only(self, columns: Sequence[int]) -> Self:
        """The measures of some dimensions."""
        return type(self)(self.quantiles[:, columns], self.middle[columns])

    def to_arrays(self, prefix: str) -> dict[str, Float32]:
        """The measures as named arrays, for a file or a message."""
        return {prefix + name: getattr(self, name).astype(np.float32) for name in ("quantiles", "middle")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str) -> Self:
        """The inverse of `to_arrays`. Raises ReleaseError: arrays are missing, of another shape, or not finite."""
        quantiles, middle = found = [arrays.get(prefix + name) for name in ("quantiles", "middle")]
        if quantiles is None or middle is None or quantiles.shape != (LEVELS, *middle.shape) or middle.ndim != 1:
            shapes = [None if array is None else list(array.shape) for array in found]
            raise ReleaseError(f"public measures of {shapes}", expected=f"[{LEVELS}, n] and [n]")
        if not are_finite(quantiles, middle):
            raise ReleaseError("public measures that are not finite")
        return cls(np.asarray(quantiles, np.float64), np.asarray(middle, np.float64))

    def values(self, normal: Measures) -> Measures:
        """Measures of public people at normal values [frames, dimensions]: the inverse of the mapping, for them."""
        from scipy.special import ndtr

        columns = zip(ndtr(normal).T, self.quantiles.T, strict=True)
        return np.stack([np.interp(ranks, _RANKS, own) for ranks, own in columns], axis=1)


class SpeakerScale:
    """Maps one person's measures to normal values; clips that it was not made from may follow later.

    Args:
        clips: the person's, each [frames, dimensions]; every clip counts alike, whatever its length.
        public: takes part with the weight of `public_clips` clips.
        public_clips: see `PUBLIC_CLIPS`.
        noise: draws the person's offset; none is added without it.
    """

    def __init__(
        self,
        clips: Sequence[Measures],
        public: PublicMeasures,
        *,
        public_clips: float = PUBLIC_CLIPS,
        noise: NoiseSource | None = None,
    ) -> None:
        mean = np.mean([clip.mean(0) for clip in clips], axis=0)
        left = (mean - public.middle) * public_clips / (len(clips) + public_clips)
        # Of somebody who is unlike the public no more is left than the mean of so many clips is uncertain by.
        most = public.quantiles.std(0) * (CLIP_VARIANCE / len(clips)) ** 0.5
        middle = mean - np.clip(left, -most, most)
        shifted = public.quantiles - public.middle + middle
        values = np.concatenate([*(clip - mean + middle for clip in clips), shifted])
        parts = [*((len(clip), 1.0) for clip in clips), (len(shifted), public_clips)]
        weights = np.concatenate([np.full(rows, weight / rows) for rows, weight in parts])
        self._positions = np.stack([_quantiles(column, weights) for column in values.T], axis=1)
        self._offset = np.zeros(values.shape[1])
        if noise is not None:
            self._offset = noise.normal((CLIP_VARIANCE / (len(clips) + public_clips)) ** 0.5, self._offset.shape)

    def __call__(self, measures: Measures) -> Measures:
        """[frames, dimensions] -> normal values of the same shape."""
        from scipy.special import ndtri

        columns = zip(measures.T, self._positions.T, strict=True)
        ranks = np.stack([np.interp(values, positions, _RANKS) for values, positions in columns], axis=1)
        return np.asarray(np.clip(ndtri(ranks) + self._offset, -WIDEST, WIDEST))


def _quantiles(values: Array, weights: Float64) -> Float64:
    """Weighted quantiles at `_RANKS`, strictly ascending."""
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(weights[order]) - weights[order] / 2
    found = np.interp(_RANKS, ranks / weights.sum(), values[order])
    # Equal positions would make the mapping jump: a value that never changes has no rank of its own.
    spread = max(float(np.ptp(found)), 1e-6)
    return np.asarray(found + np.linspace(0, 1e-6 * spread, len(found)))
