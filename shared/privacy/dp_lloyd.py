"""DP Lloyd: k-means whose sums and counts are noisy (Su et al., CODASPY 2016, "Differentially Private K-Means").

They add Laplace noise to sums of single points. Here a unit, such as a speaker with all its frames, gives one bounded
vector for each iteration, and the noise is Gaussian: it grows with the root of the iterations, not with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.mechanism import Mechanism, Relation, Sensitivity, check_positive, mechanism
from moretta.shared.privacy.renyi import Curve
from moretta.shared.release.format import PrivacyUnit


@mechanism("dp-lloyd")
@dataclass(frozen=True, kw_only=True)
class DpLloyd(Mechanism):
    """`iterations` releases of noisy sums and counts, to which one unit adds a vector of L2 norm 1 at most.

    Counts and sums are scaled so that a unit's whole contribution, the shares of its frames in each cluster and their
    bounded sums, has norm 1 (`lloyd_sums`); the noise's standard deviation is `noise_multiplier` in the same scale.
    """

    relation: ClassVar[Relation] = "add-or-remove"
    voided_by: ClassVar[tuple[str, ...]] = (
        "a unit's whole contribution is not cut to norm 1",
        "the first codebook, or what frames are standardised by, is taken from the clips themselves",
        "more iterations are made than were counted, as when one waits for it to converge",
        "the noise is seeded",
    )
    noise_multiplier: float
    iterations: int
    group: int = 1

    def __post_init__(self) -> None:
        check_positive("DP Lloyd", noise_multiplier=self.noise_multiplier, iterations=self.iterations, group=self.group)

    @property
    def sensitivity(self) -> Sensitivity:
        """Of one iteration, in norms of one unit's contribution."""
        return Sensitivity(float(self.group), "L2")

    @property
    def ratio(self) -> float:
        """Reach of all iterations together over the noise's standard deviation."""
        return self._as_gaussian().ratio

    def renyi(self) -> Curve:
        """That of one Gaussian with root `iterations` the reach."""
        return self._as_gaussian().renyi()

    def epsilon(self, delta: float) -> float | None:
        """Exact; None at delta 0."""
        return self._as_gaussian().epsilon(delta)

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> DpLloyd:
        """`size` units add to the same sums, all in the same direction at worst."""
        return replace(self, group=self.group * size, unit=unit)

    def _as_gaussian(self) -> Gaussian:
        return Gaussian(sigma=self.noise_multiplier, distance=self.group * math.sqrt(self.iterations), unit=self.unit)


def calibrated_lloyd_noise(*, epsilon: float, delta: float, iterations: int) -> float:
    """The noise multiplier with which `iterations` iterations spend `epsilon` at `delta`."""
    from moretta.shared.privacy.gaussian import calibrated_sigma

    return calibrated_sigma(epsilon=epsilon, delta=delta, sensitivity=math.sqrt(iterations))
