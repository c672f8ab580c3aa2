"""Gain of voice distinctiveness and de-identification (Noe et al., Interspeech 2020 and 2022).

Both come from voice similarity matrices: `oo` original against original, `op` original against released, `pp` released
against released, each [speakers, speakers] in one order of speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moretta.shared.audit.metrics.scores import have_sex, metric
from moretta.shared.core.array_types import Float64, Int64
from moretta.shared.features.voice_similarity import LEAST_GAIN_DECIBEL, diagonal_dominance, gain_decibel


class Dominance(NamedTuple):
    """Diagonal dominance of two similarity matrices of the same speakers."""

    original: float
    """Diagonal dominance of `oo`."""
    attacked: float
    """Diagonal dominance of `pp` for the gain of distinctiveness, of `op` for de-identification."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Two similarity matrices [speakers, speakers] of the same speakers, whose numbers are int [speakers]."""

    original: Float64
    attacked: Float64
    speakers: Int64

    def dominance(self, draws: Int64 | None = None) -> Dominance | None:
        """Dominance over all speakers, or over a resample of them; None if that has fewer than two."""
        if len(self.speakers) < 2 or (draws is not None and (draws > 0).sum() < 2):
            return None
        return Dominance(diagonal_dominance(self.original, draws), diagonal_dominance(self.attacked, draws))

    @property
    def enrolled(self) -> int:
        """How many speakers there are."""
        return len(self.speakers)

    def of_sex(self, sex_of: Mapping[int, str], sex: str) -> Similarity | None:
        """The speakers of this sex; None of fewer than two."""
        keep = have_sex(self.speakers, sex_of, sex)
        block = np.ix_(keep, keep)
        return Similarity(self.original[block], self.attacked[block], self.speakers[keep]) if keep.sum() > 1 else None

    def by_speaker(self) -> dict[int, Dominance]:
        """How much each speaker resembles itself more than others resemble it, in both matrices."""

        def own(s: Float64, row: int) -> float:
            others = np.arange(len(s)) != row
            return abs(float(s[row, row] - (s[row, others].mean() + s[others, row].mean()) / 2))

        return {int(n): Dominance(own(self.original, i), own(self.attacked, i)) for i, n in enumerate(self.speakers)}


@metric("voice_distinctiveness_gain", kind="similarity", unit="dB", chance=LEAST_GAIN_DECIBEL, private="low")
def voice_distinctiveness_gain(dominance: Dominance) -> float | None:
    """G_VD in decibel: 0 where released voices are as distinct as the originals, `LEAST_GAIN_DECIBEL` if all alike.

    10 log10 of the ratio of diagonal dominances of `pp` and `oo`. None of these voices need resemble its original: this
    is a figure of utility (are speakers still distinct?) that leaks when clips of one speaker can be linked. None where
    the originals are not distinct at all.
    """
    return None if dominance.original == 0 else gain_decibel(dominance.attacked / dominance.original)


@metric("deidentification", kind="similarity", unit="", chance=1.0, private="high")
def deidentification(dominance: Dominance) -> float | None:
    """DeID, at most 1: 1 where released voices resemble no original more than another, 0 where as much as before.

    From the dominances of `op` and `oo`; None where the originals are not distinct at all.
    """
    return None if dominance.original == 0 else 1 - dominance.attacked / dominance.original
