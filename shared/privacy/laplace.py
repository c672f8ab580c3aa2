"""What Laplace noise on MFCC values guarantees, at every unit.

Noise of scale b on one value that moves by at most s costs epsilon s / b (Dwork and Roth 2014, theorem 3.6). On a
vector the losses of its values add up, and exactly so: two vectors that differ by s in every value reach the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moretta.shared.release.format import PrivacyStatement, PrivacyUnit


def values_per_unit(sizes: Mapping[str, Sequence[int]], coefficients: int) -> dict[PrivacyUnit, int]:
    """The most values that one value, frame, clip or speaker contributes.

    Args:
        sizes: for each speaker, the number of frames of each of its clips.
        coefficients: values in a frame.
    """
    return {
        "value": 1,
        "frame": coefficients,
        "clip": coefficients * max((max(clips, default=0) for clips in sizes.values()), default=0),
        "speaker": coefficients * max((sum(clips) for clips in sizes.values()), default=0),
    }


@dataclass(frozen=True, kw_only=True)
class LaplaceValues:
    """Independent Laplace noise on each value of a clip's MFCC.

    The guarantee is local: it holds between any two clips of the same number of frames (clip), or any two people with
    the same numbers of clips and frames (speaker). Those numbers are released as they are and not covered.
    """

    epsilon: float
    """Nominal, per value."""
    sensitivity: float
    """Nominal, per value."""
    bound: float | None
    """Values are clipped to +- this before noise is added, without a look at the data. None: they are not clipped, one
    value can move without limit, and nothing finite is guaranteed."""
    uses: int = 1
    """How often noise is drawn anew on the same values, as when a codebook is fitted on them too."""

    @property
    def scale(self) -> float:
        """Scale of the noise, in the units of the values: variance is twice its square."""
        return self.sensitivity / self.epsilon

    def guaranteed(self, values: int) -> float | None:
        """Epsilon of `values` values together, None if there is no finite one.

        >>> LaplaceValues(epsilon=0.8, sensitivity=0.5, bound=3.0).guaranteed(1)
        9.6
        """
        return None if self.bound is None else self.uses * values * (2 * self.bound / self.scale)

    def nominal(self, values: int) -> float:
        """Epsilon of `values` values together if the nominal sensitivity were right."""
        return self.uses * values * self.epsilon

    def statements(
        self, sizes: Mapping[str, Sequence[int]], coefficients: int, *, mechanism: str, note: str
    ) -> tuple[PrivacyStatement, ...]:
        """One statement a unit, from value to speaker."""
        return tuple(
            PrivacyStatement(
                mechanism=mechanism,
                unit=unit,
                epsilon=self.guaranteed(values),
                nominal=self.nominal(values),
                note=note,
            )
            for unit, values in values_per_unit(sizes, coefficients).items()
        )
