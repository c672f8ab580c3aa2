"""Normalization within a speaker: ranks among the speaker's own clips, then the same mean and covariance for everybody.

* Ranks remove what is the same in all clips, whatever its distribution. The location is the speaker's own: any share of
  a public one would show where the speaker lies. Only the spread is shrunk towards the public one.
* Clips count with secret random weights (Rubin's Bayesian bootstrap, Annals of Statistics 9, 1981). With equal weights
  the clips of a speaker add up to zero, and who has half of them knows the sum of the others.
* How values move together still identifies people, so codes are whitened, by the symmetric root, which turns them the
  least: a code means the same for every speaker.
* Codes of few clips that were centred together lie opposite one another. So the mean that is removed is shifted by a
  secret (`secret_shift`), as large as the mean of so many clips is uncertain by.

In many dimensions whitening pushes a speaker's few clips apart, which hides them from attackers who use likeness while
the likeness stays (docs/results/speaker-normalized.md has how much was found).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moretta.shared.core.array_types import Array, Float64
from moretta.shared.privacy.noise import NoiseSource

PRIOR_CLIPS = 4.0
"""Clips that count as much as the public spread."""
PRIOR_CLIPS_PER_VALUE = 1.0
"""Clips, for each value of a code, that count as much as the public covariance, which is the unit matrix."""
CLIP_VARIANCE = 0.5
"""How much of the variance of steps is one of their clips: on real speech, steps of a second."""
RANK_LIMIT = 2.5
"""Largest place in standard deviations."""


def secret_weights(clips: int, noise: NoiseSource) -> Float64:
    """float64 [clips], positive: made to add up to 1 they are uniform on all weights that do."""
    return np.asarray(-np.log(noise.uniform((clips,))))


def secret_shift(normals: Array, clips: int, *, in_windows: bool = False) -> Float64:
    """Of the mean of a person's codes, [d]: standard normals [d], drawn once for the person, in the size for `clips`.

    Ranks of n clips, drawn towards the public spread, vary by about n / (n + 1), and the mean of n by an n-th of that.
    Of the only clip there is nothing to hide: its code is zeros.
    """
    variance = (CLIP_VARIANCE if in_windows else 1.0) / (clips + 1)
    return np.asarray(normals, np.float64) * (variance**0.5 if clips > 1 else 0.0)


@dataclass(frozen=True)
class SpeakerRanks:
    """Ranks among the clips of one person.

    The columns of `values` [clips, n] are sorted; `below` [clips + 1, n] is the weight of all clips before each place,
    from 0 to 1; `location` [n] is the weighted mean, `spread` [n] the public standard deviations within a person.
    """

    values: Float64
    below: Float64
    location: Float64
    spread: Float64

    @classmethod
    def of(cls, values: Array, weights: Array, spread: Array) -> SpeakerRanks:
        """Ranks among values [clips, n], with each clip's weight [clips] and public standard deviations [n]."""
        exact, share = np.asarray(values, np.float64), np.asarray(weights, np.float64) / np.sum(weights)
        order = np.argsort(exact, axis=0, kind="stable")
        below = np.concatenate([np.zeros((1, exact.shape[1])), np.cumsum(share[order], axis=0)])
        return cls(np.take_along_axis(exact, order, axis=0), below, share @ exact, np.asarray(spread, np.float64))

    def __call__(self, values: Array) -> Float64:
        """[m, n], of clips known or new, as places of a standard Gaussian within +- `RANK_LIMIT`."""
        from scipy.special import ndtr, ndtri

        exact = np.asarray(values, np.float64)
        own = np.empty_like(exact)
        for k, (known, below) in enumerate(zip(self.values.T, self.below.T, strict=True)):
            first, last = (np.searchsorted(known, exact[:, k], side=side) for side in ("left", "right"))
            own[:, k] = (below[first] + below[last]) / 2  # of those that are equal a half lies below
        public = ndtr((exact - self.location) / self.spread)
        clips = len(self.values)
        place = (clips * own + PRIOR_CLIPS * public) / (clips + PRIOR_CLIPS)
        edge = ndtr(-RANK_LIMIT)
        return np.asarray(ndtri(np.clip(place, edge, 1 - edge)))


@dataclass(frozen=True)
class SpeakerWhitening:
    """Takes one person's mean away and brings the covariance to the unit matrix, shrunk where clips are few."""

    mean: Float64
    root: Float64
    """[d, d], symmetric."""

    @classmethod
    def of(
        cls, codes: Array, weights: Array, *, counts: Array | None = None, shift: Array | float = 0.0
    ) -> SpeakerWhitening:
        """From one person's codes, scaled so that public codes have unit covariance within a person.

        Args:
            codes: [clips, d].
            weights: [clips], of the covariance.
            counts: [clips], what each counts in the mean; None takes the weights. A shift has the right size where
                every clip counts alike.
            shift: [d], added to the mean.
        """
        exact, share = np.asarray(codes, np.float64), np.asarray(weights, np.float64) / np.sum(weights)
        centred = exact - share @ exact
        covariance = (share[:, None] * centred).T @ centred
        clips, size = exact.shape
        prior = PRIOR_CLIPS_PER_VALUE * size
        shrunk = (clips * covariance + prior * np.eye(size)) / (clips + prior)
        values, vectors = np.linalg.eigh(shrunk)
        values = np.maximum(values, 0.5 * prior / (clips + prior))  # twice that by the line above, but for rounding
        alike = share if counts is None else np.asarray(counts, np.float64) / np.sum(counts)
        return cls(alike @ exact + shift, vectors / np.sqrt(values) @ vectors.T)

    def __call__(self, codes: Array) -> Float64:
        """[m, d] of clips of this person, known or new."""
        return np.asarray((np.asarray(codes, np.float64) - self.mean) @ self.root)
