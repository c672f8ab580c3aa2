"""DP-SGD as a mechanism: Gaussian noise on sums of clipped gradients of Poisson samples.

Abadi et al., CCS 2016; Mironov, Talwar and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np

from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.mechanism import (
    ORDERS,
    Curve,
    Mechanism,
    Relation,
    Sensitivity,
    check_positive,
    mechanism,
    rounded_up,
)

_MAX_GROUP_ORDER = 64.0
_MAX_TERMS = 4_000_000
"""Of a numerical integral: points times components. Where it would take more, large orders are left out: they matter
for small losses only."""
_MAX_TERMS_OF_ALL = 100_000_000
"""Beyond it, with next to no noise, nothing is integrated: sampling hides nothing that counts there."""
_TAIL_SIGMAS = 14.0


@mechanism("sampled-gaussian")
@dataclass(frozen=True, kw_only=True)
class SampledGaussian(Mechanism):
    """`steps` releases of a noisy sum of clipped vectors, each unit being in the sum with probability `rate`.

    With `group` above 1 the loss is that of so many units that change together, each sampled by itself: one speaker
    with `group` clips, where the clip is what is sampled and clipped.
    """

    relation: ClassVar[Relation] = "add-or-remove"
    invalidated_by: ClassVar[tuple[str, ...]] = (
        "batches are shuffled or of fixed size: the sampling must be Poisson, and secret",
        "gradients are not clipped for each unit by itself, or batch statistics mix units (BatchNorm)",
        "a loss, an accuracy or a choice of hyper-parameters on the same clips is revealed without noise",
        "the noise is seeded, or a step is made again with the same noise and another batch",
    )
    grows: ClassVar[str] = "group"
    noise_multiplier: float
    rate: float
    steps: int
    group: int = 1
    moves: bool = False
    """The unit is part of what is sampled, such as one clip of a sampled speaker: without it the sampled vector does
    not vanish but moves, anywhere within its ball."""

    def __post_init__(self) -> None:
        check_positive("DP-SGD", noise_multiplier=self.noise_multiplier, steps=self.steps, group=self.group)
        if self.moves and self.group > 1:
            raise ValueError(f"DP-SGD: {self.group} parts of sampled units together are those units themselves")
        if not 0 < self.rate <= 1:
            raise ValueError(f"DP-SGD: the sampling rate is {self.rate}, it must lie in (0, 1]")

    @property
    def is_plain(self) -> bool:
        """Whether it is the mechanism that Opacus' accountants know: one unit, there or not."""
        return self.group == 1 and not self.moves

    @property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity in clipping norms, the unit of the noise multiplier."""
        return Sensitivity(2.0 if self.moves else float(self.group), "L2")

    def renyi(self) -> Curve:
        """Linear in the steps."""
        if self.moves:
            return self.steps * _moving_rdp(self.noise_multiplier, self.rate)
        if self.group == 1:
            return self.steps * rdp_of_step(self.noise_multiplier, self.rate)
        return self.steps * _group_rdp(self.noise_multiplier, self.rate, self.group)

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> Self:
        """`size` units that change together (Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with Sampling").

        The number of them in one batch is binomial; their gradients, each clipped, point the same way at worst.
        """
        # All parts of the sampled unit: the unit itself vanishes
        return replace(self, moves=False, unit=unit) if self.moves else super().for_group(size, unit)

    def by_unit(self, most_clips: int) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """The loss of a clip, and of the speaker who has `most_clips`.

        Where speakers are sampled, the speaker's gradient does not vanish without one clip but moves.
        """
        if self.unit == "speaker":
            return {"clip": (replace(self, moves=True, unit="clip"),), "speaker": (self,)}
        return {"clip": (self,), "speaker": (self.for_group(most_clips),)}


@lru_cache(maxsize=256)  # a round adds steps of a kind that was seen before
def rdp_of_step(noise_multiplier: float, rate: float, orders: tuple[float, ...] = ORDERS) -> Curve:
    """Renyi divergences of one step, for one unit that is there or not.

    Opacus' series for orders between integers loses itself in rounding here and there, with an error. The divergence
    grows with the order, so that of the next integer holds as well.
    """
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        curve = compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=list(orders))
    except ValueError:
        whole = [float(max(2, math.ceil(order))) for order in orders]
        curve = compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=whole)
    found = np.asarray(curve, np.float64)
    return found if rate == 1.0 else rounded_up(np.where(np.isnan(found), np.inf, found), orders)


@lru_cache(maxsize=64)
def _moving_rdp(noise_multiplier: float, rate: float) -> Curve:
    """Loss from one vector to none and from none to another, by the weak triangle inequality.

    Source: Mironov, CSF 2017, corollary 4.
    """
    orders = np.asarray(ORDERS)
    away = rdp_of_step(noise_multiplier, rate, tuple(2 * orders))
    back = rdp_of_step(noise_multiplier, rate, tuple(2 * orders - 1))
    curve: Curve = (orders - 0.5) / (orders - 1) * away + back
    return curve


@lru_cache(maxsize=64)
def _group_rdp(sigma: float, rate: float, group: int) -> Curve:
    """One step, by numerical integration of the mixture that `group` sampled units make.

    Neighbours differ at most as N(0, s^2) and the mixture over i, binomial, of N(i, s^2) do (the paper, theorem 3.1).
    The trapezoid rule's error on functions like these falls as exp(-2 pi d / step). Here d is pi sigma^2, the distance
    from the real line to the zeros of a mixture of neighbouring components. Order a reaches to a times the group.
    """
    from scipy.special import logsumexp
    from scipy.stats import binom

    orders = np.asarray(ORDERS)
    step = min(sigma / 8, sigma**2 / 2)
    max_order = min(_MAX_GROUP_ORDER, max(2.0, _MAX_TERMS / (group + 1) * step / group))
    points = (max_order * group + 2 * _TAIL_SIGMAS * sigma) / step
    if rate == 1.0 or points * (group + 1) > _MAX_TERMS_OF_ALL:
        gaussian: Curve = orders * group**2 / (2 * sigma**2)  # that all are sampled always is the worst case
        return gaussian
    x = np.arange(-_TAIL_SIGMAS * sigma, max_order * group + _TAIL_SIGMAS * sigma, step)
    mixed = np.full(len(x), -np.inf)
    for sampled, weight in enumerate(binom.logpmf(np.arange(group + 1), group, rate)):
        mixed = np.logaddexp(mixed, weight - (x - sampled) ** 2 / (2 * sigma**2))
    constant = np.log(sigma * np.sqrt(2 * np.pi))
    log_with, log_without = mixed - constant, -(x**2) / (2 * sigma**2) - constant
    curve = np.full(len(orders), np.inf)
    for index, order in enumerate(orders):
        if order <= max_order:
            there = float(logsumexp(order * log_with + (1 - order) * log_without) + np.log(step))
            back = float(logsumexp(order * log_without + (1 - order) * log_with) + np.log(step))
            curve[index] = max(there, back, 0.0) / (order - 1)
    return rounded_up(curve)
