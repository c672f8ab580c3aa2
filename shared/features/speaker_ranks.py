"""Values told relative to the person they come from: ranks among a person's own clips, as places of a Gaussian.

What is the same in all clips of a person is gone then, whatever its distribution was; what is left says how a clip
differs from the person's others. Two details decide what it hides:

* The location is the person's own, even of a person with few clips: any share of a public location in it would tell
  where the person lies. Only the spread is shrunk towards the public one. So a person's only clip comes out as zeros.
* Clips count with secret random weights (Rubin's Bayesian bootstrap, Annals of Statistics 9, 1981). With equal
  weights the normalized clips of a person add up to nothing, and who has half of them knows the sum of the others.
  Under these weights any two of many clips are uncorrelated; of few, a second secret sees to it
  (`moretta.shared.features.speaker_whitening`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.privacy.noise import NoiseSource

Floats = npt.NDArray[np.float64]

PRIOR_CLIPS = 4.0
"""Clips that count as much as the public spread."""
RANK_LIMIT = 2.5
"""In standard deviations: no place is farther out."""


def secret_weights(clips: int, noise: NoiseSource) -> Floats:
    """float64 [clips], positive: made to add up to 1 they are uniform on all weights that do."""
    return np.asarray(-np.log(noise.uniform((clips,))))


@dataclass(frozen=True)
class SpeakerRanks:
    """Ranks among the clips of one person.

    Args:
        values: [clips, n], each column sorted.
        below: [clips + 1, n], weight of all clips before each place; from 0 to 1.
        location: [n], the weighted mean.
        spread: [n], public standard deviations within a person.
    """

    values: Floats
    below: Floats
    location: Floats
    spread: Floats

    @classmethod
    def of(cls, values: npt.NDArray[Any], weights: npt.NDArray[Any], spread: npt.NDArray[Any]) -> SpeakerRanks:
        """From values [clips, n], each clip's weight [clips] and public standard deviations [n]."""
        exact, share = np.asarray(values, np.float64), np.asarray(weights, np.float64) / np.sum(weights)
        order = np.argsort(exact, axis=0, kind="stable")
        below = np.concatenate([np.zeros((1, exact.shape[1])), np.cumsum(share[order], axis=0)])
        return cls(np.take_along_axis(exact, order, axis=0), below, share @ exact, np.asarray(spread, np.float64))

    def __call__(self, values: npt.NDArray[Any]) -> Floats:
        """[m, n], of clips known or new, as places of a standard Gaussian within +- `RANK_LIMIT`."""
        from scipy.special import ndtr, ndtri

        exact = np.asarray(values, np.float64)
        own = np.empty_like(exact)
        for column in range(exact.shape[1]):
            known, below = self.values[:, column], self.below[:, column]
            first = np.searchsorted(known, exact[:, column], side="left")
            last = np.searchsorted(known, exact[:, column], side="right")
            own[:, column] = (below[first] + below[last]) / 2  # of those that are equal a half lies below
        public = ndtr((exact - self.location) / self.spread)
        clips = len(self.values)
        place = (clips * own + PRIOR_CLIPS * public) / (clips + PRIOR_CLIPS)
        edge = ndtr(-RANK_LIMIT)
        return np.asarray(ndtri(np.clip(place, edge, 1 - edge)))
