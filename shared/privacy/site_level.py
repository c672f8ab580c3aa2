"""Differential privacy of whole sites: Gaussian noise on the sum of their clipped updates, round after round.

McMahan et al., ICLR 2018, "Learning Differentially Private Recurrent Language Models", with a site for their user and
without sampling: few sites take part, and all do in every round. The distributed form is that of Kairouz, Liu and
Steinke, ICML 2021, "The Distributed Discrete Gaussian Mechanism", with noise that is not discrete.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.mechanism import Curve, Mechanism, Relation, Sensitivity, check_positive, mechanism
from moretta.shared.study.schema import Study

Floats = npt.NDArray[np.float64]
_MARGIN = 1e-12
"""Relative, off the norm: what adding up in double precision may have missed."""


@mechanism("site-gaussian")
@dataclass(frozen=True, kw_only=True)
class SiteGaussian(Mechanism):
    """`rounds` releases of a sum to which each site adds a vector of norm 1 at most, with Gaussian noise.

    How many sites are in the sum is revealed with it. So the mean guarantees as much as the sum where the neighbour
    is a site whose update is nothing, and that a site took part is no secret. A mean whose count moves with its
    neighbour has twice the sensitivity.
    """

    relation: ClassVar[Relation] = "add-or-remove"
    invalidated_by: ClassVar[tuple[str, ...]] = (
        "an update is not clipped as a whole, or sites weigh by their number of clips and the noise does not",
        "weights without noise, such as a standardization by the sites' clips, are released with the model",
        "distributed: fewer sites respond than the noise was shared out for, or more of them pool what they drew",
        "distributed: whoever adds up sees the updates one by one, so that each has its own share of noise alone",
        "a training loss or a choice of hyper-parameters on the same sites is revealed without noise",
        "the noise is seeded, or a round is made again with other noise and both are released",
    )
    unit: PrivacyUnit = "site"
    noise_multiplier: float
    """Standard deviation of the noise on the sum, in clipping norms."""
    rounds: int
    group: int = 1

    def __post_init__(self) -> None:
        check_positive("site-level noise", noise_multiplier=self.noise_multiplier, rounds=self.rounds, group=self.group)

    @property
    def sensitivity(self) -> Sensitivity:
        """Of one round's sum, in clipping norms."""
        return Sensitivity(float(self.group), "L2")

    def renyi(self) -> Curve:
        """That of one Gaussian with root `rounds` the reach."""
        return self._as_gaussian().renyi()

    def epsilon(self, delta: float) -> float | None:
        """Exact; None at delta 0."""
        return self._as_gaussian().epsilon(delta)

    def for_group(self, size: int, unit: PrivacyUnit = "site") -> SiteGaussian:
        """`size` sites add to the same sums, all in the same direction at worst."""
        return replace(self, group=self.group * size, unit=unit)

    def _as_gaussian(self) -> Gaussian:
        return Gaussian(sigma=self.noise_multiplier, distance=self.group * math.sqrt(self.rounds), unit=self.unit)


def mean_sensitivity(weights: Sequence[float], clipping_norm: float) -> float:
    """The distance by which one site, whose update becomes nothing, moves the weighted mean of clipped updates.

    The site of the largest weight decides: by numbers of clips it is not `clipping_norm` over the number of sites.

    >>> mean_sensitivity([1, 1, 1, 1], 1.0), mean_sensitivity([10, 10, 10, 70], 1.0)
    (0.25, 0.7)
    """
    return clipping_norm * max(weights) / math.fsum(weights)


@dataclass(frozen=True, slots=True)
class SitePlan:
    """The noise of one study's aggregation."""

    noise_multiplier: float
    clipping_norm: float
    min_sites: int
    curious_sites: int
    """0 where the server adds the noise: no site knows of it."""
    rounds: int
    """Of all models together."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise on the sum of the updates."""
        return self.noise_multiplier * self.clipping_norm

    @property
    def share(self) -> float:
        """Standard deviation of the noise that each site adds, so that enough is left of it without those of the
        curious: variances add up."""
        return self.sigma / math.sqrt(self.min_sites - self.curious_sites)

    def loss(self, rounds: int) -> SiteGaussian:
        """Of one site, by so many rounds in which it took part."""
        return SiteGaussian(noise_multiplier=self.noise_multiplier, rounds=rounds)

    def loss_of_share(self, rounds: int) -> SiteGaussian:
        """The same for whoever sees the site's update by itself, under its own share of the noise."""
        return SiteGaussian(noise_multiplier=self.share / self.clipping_norm, rounds=rounds)


def plan_site_level(study: Study) -> SitePlan | None:
    """Calibrate the noise to the study's target over all rounds of all its models; None if it has none."""
    wanted = study.aggregation
    if wanted.dp == "none":
        return None
    rounds = study.train.rounds * len(study.models)
    noise = calibrated_sigma(epsilon=wanted.epsilon, delta=wanted.delta, sensitivity=math.sqrt(rounds))
    curious = wanted.curious_sites if wanted.dp == "distributed" else 0
    return SitePlan(noise, wanted.clipping_norm, wanted.min_sites, curious, rounds)


def clipped_change(
    sent: Mapping[str, npt.NDArray[Any]],
    update: Mapping[str, npt.NDArray[Any]],
    *,
    trained: Collection[str],
    norm: float,
) -> dict[str, Floats]:
    """The change by an update, float64, with an L2 norm of all its arrays together of `norm` at most.

    An update with a value that is not finite changes nothing: scaled it would stay so, and noise would not hide it.
    To refuse it would reveal as much.

    Args:
        sent: the global weights.
        update: what they have become at a site.
        trained: names of the arrays that training changes; what a site says of others is not looked at.
        norm: to cut to.
    """
    change = {name: update[name].astype(np.float64) - sent[name].astype(np.float64) for name in sorted(trained)}
    size = float(np.sqrt(sum(float(np.square(array).sum()) for array in change.values())))
    if not np.isfinite(size):
        return {name: np.zeros(array.shape) for name, array in change.items()}
    scale = 1.0 if size <= norm * (1 - _MARGIN) else norm * (1 - _MARGIN) / size
    return {name: array * scale for name, array in change.items()}


def changed(
    sent: Mapping[str, npt.NDArray[Any]], change: Mapping[str, npt.NDArray[np.floating[Any]]]
) -> dict[str, npt.NDArray[Any]]:
    """The global weights with a change, in the types that they had; what it does not name stays as it was."""
    return {
        name: (array.astype(np.float64) + change[name]).astype(array.dtype) if name in change else array
        for name, array in sent.items()
    }
