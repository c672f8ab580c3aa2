"""Codes of each person with the same mean and the same covariance as everybody's.

Ranks within a person hide where values lie and how far they spread, one by one; how they move together still tells
people apart. Whitened within the person, codes have nothing left that a mean or a covariance could show. The root of
the covariance is the symmetric one, which turns codes the least: what a code means stays the same from person to
person.

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


@dataclass(frozen=True)
class PersonWhitening:
    """Takes one person's mean away and brings the covariance to the unit matrix, shrunk where clips are few."""

    mean: Floats
    """[d]"""
    root: Floats
    """[d, d], symmetric."""

    @classmethod
    def of(cls, codes: npt.NDArray[Any], weights: npt.NDArray[Any]) -> PersonWhitening:
        """From one person's codes [clips, d], scaled so that public codes have unit covariance within a person."""
        exact, share = np.asarray(codes, np.float64), np.asarray(weights, np.float64) / np.sum(weights)
        mean = share @ exact
        centred = exact - mean
        covariance = (share[:, None] * centred).T @ centred
        clips, size = exact.shape
        prior = PRIOR_CLIPS_PER_VALUE * size
        shrunk = (clips * covariance + prior * np.eye(size)) / (clips + prior)
        values, vectors = np.linalg.eigh(shrunk)
        return cls(mean, vectors / np.sqrt(values) @ vectors.T)

    def __call__(self, codes: npt.NDArray[Any]) -> Floats:
        """[m, d] of clips of this person, known or new."""
        return np.asarray((np.asarray(codes, np.float64) - self.mean) @ self.root)
