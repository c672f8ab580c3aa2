"""Codes of each person with the same mean and the same covariance as everybody's.

Ranks within a person hide where values lie and how far they spread, one by one; how they move together still tells
people apart. Whitened within the person, codes have nothing left that a mean or a covariance could show. The root of
the covariance is the symmetric one, which turns codes the least: what a code means stays the same from person to
person.

Codes of few clips that were centred together lie opposite one another: those of two exactly, whatever is in them. So
the mean that is taken away is shifted by a secret offset (`secret_shift`), as large as the mean of so many clips is
uncertain by; then two clips of one person are no more alike, or unlike, than those of two.

It must not be asked to do more. In many dimensions it pushes a person's few clips apart from one another, which hides
them from attackers who look for likeness while the likeness stays (docs/measured.md tells how much was found).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PRIOR_CLIPS_PER_VALUE = 1.0
"""Clips, for each value of a code, that count as much as the public covariance, which is the unit matrix."""
CLIP_VARIANCE = 0.5
"""How much of the variance of steps is one of their clips: on real speech, steps of a second."""


def secret_shift(normals: npt.NDArray[Any], clips: int, *, in_windows: bool = False) -> Floats:
    """Of the mean of a person's codes, [d]: standard normals [d], drawn once for the person, in the size for `clips`.

    Ranks of n clips, drawn towards the public spread, vary by about n / (n + 1), and the mean of n by an n-th of that.
    Of the only clip there is nothing to hide: it is told as zeros.
    """
    variance = (CLIP_VARIANCE if in_windows else 1.0) / (clips + 1)
    return np.asarray(normals, np.float64) * (variance**0.5 if clips > 1 else 0.0)


@dataclass(frozen=True)
class SpeakerWhitening:
    """Takes one person's mean away and brings the covariance to the unit matrix, shrunk where clips are few."""

    mean: Floats
    """[d]"""
    root: Floats
    """[d, d], symmetric."""

    @classmethod
    def of(
        cls,
        codes: npt.NDArray[Any],
        weights: npt.NDArray[Any],
        *,
        counts: npt.NDArray[Any] | None = None,
        shift: npt.NDArray[Any] | float = 0.0,
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

    def __call__(self, codes: npt.NDArray[Any]) -> Floats:
        """[m, d] of clips of this person, known or new."""
        return np.asarray((np.asarray(codes, np.float64) - self.mean) @ self.root)
