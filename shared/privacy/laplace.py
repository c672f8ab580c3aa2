"""Laplace noise: what it guarantees on one value, on a vector, and on the MFCC of clips at every unit.

Noise of scale b on one value that moves by at most s costs epsilon s / b (Dwork and Roth 2014, theorem 3.6). On a
vector the losses of its values add up, and exactly so: two vectors that differ by s in every value reach the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.privacy.mechanism import (
    ORDERS,
    Curve,
    Mechanism,
    Relation,
    Sensitivity,
    Unbounded,
    check_positive,
    mechanism,
    rounded_up,
)


@mechanism("laplace")
@dataclass(frozen=True, kw_only=True)
class LaplaceVector(Mechanism):
    """Independent Laplace noise on each of `values` numbers, each costing `value_epsilon`."""

    relation: ClassVar[Relation] = "replace"
    invalidated_by: ClassVar[tuple[str, ...]] = (
        "a value is not clipped to its bound before the noise is added",
        "the bound, or what values are standardised by, is taken from the clips themselves",
        "the noise is seeded, or drawn again for the same clip without being counted",
        "how many values there are is itself a secret: it is released as it is",
    )
    value_epsilon: float
    values: int

    def __post_init__(self) -> None:
        check_positive("laplace", value_epsilon=self.value_epsilon, values=self.values)

    @property
    def sensitivity(self) -> Sensitivity:
        """In scales of the noise."""
        return Sensitivity(self.value_epsilon * self.values, "L1")

    @property
    def pure_epsilon(self) -> float:
        """The sum over the values."""
        return self.value_epsilon * self.values

    def renyi(self) -> Curve:
        """`values` times that of one value (Mironov, CSF 2017, proposition 6)."""
        orders, shift = np.asarray(ORDERS), self.value_epsilon
        up = np.log(orders / (2 * orders - 1)) + (orders - 1) * shift
        down = np.log((orders - 1) / (2 * orders - 1)) - orders * shift
        curve: Curve = rounded_up(np.logaddexp(up, down) / (orders - 1))
        return np.minimum(self.values * curve, self.pure_epsilon)

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> LaplaceVector:
        """As many more values."""
        return replace(self, values=self.values * size, unit=unit)


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
    """Times that noise is drawn anew on the same values, as when a codebook is fitted on them too."""

    @property
    def scale(self) -> float:
        """Scale of the noise, in the units of the values: variance is twice its square."""
        return self.sensitivity / self.epsilon

    def loss(self, values: int, unit: PrivacyUnit) -> Mechanism | None:
        """The mechanism over `values` values together; None if there are none."""
        if self.bound is None:
            return Unbounded(unit=unit, why="the values have no bound")
        if not values:
            return None
        return LaplaceVector(value_epsilon=2 * self.bound / self.scale, values=self.uses * values, unit=unit)

    def guaranteed(self, values: int) -> float | None:
        """Epsilon of `values` values together, None if there is no finite one.

        >>> LaplaceValues(epsilon=0.8, sensitivity=0.5, bound=3.0).guaranteed(1)
        9.6
        """
        loss = self.loss(values, "value")
        return 0.0 if loss is None else loss.pure_epsilon

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
