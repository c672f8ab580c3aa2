"""DP-SGD as a mechanism: Gaussian noise on sums of clipped gradients of Poisson samples.

Abadi et al., CCS 2016; Mironov, Talwar and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

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
        """In clipping norms: what the noise multiplier is relative to."""
        return Sensitivity(2.0 if self.moves else float(self.group), "L2")

    def renyi(self) -> Curve:
        """Linear in the steps."""
        if self.moves:
            return self.steps * _moving_rdp(self.noise_multiplier, self.rate)
        if self.group == 1:
            return self.steps * rdp_of_step(self.noise_multiplier, self.rate)
        return self.steps * _group_rdp(self.noise_multiplier, self.rate, self.group)

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> SampledGaussian:
        """`size` units that change together (Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with Sampling").

        The number of them in one batch is binomial; their gradients, each clipped, point the same way at worst.
        """
        if self.moves:  # all parts of the sampled unit: the unit itself vanishes
            return replace(self, moves=False, unit=unit)
        return replace(self, group=self.group * size, unit=unit)


@lru_cache(maxsize=256)  # a round adds steps of a kind that was seen before
def rdp_of_step(noise_multiplier: float, rate: float, orders: tuple[float, ...] = ORDERS) -> Curve:
    """Renyi divergences of one step, for one unit that is there or not."""
    curve = _computed(noise_multiplier, rate, orders)
    return curve if rate == 1.0 else rounded_up(np.where(np.isnan(curve), np.inf, curve), orders)


def _computed(noise_multiplier: float, rate: float, orders: tuple[float, ...]) -> Curve:
    """By Opacus, whose series for orders between integers loses itself in rounding here and there, with an error. The
    divergence grows with the order, so that of the next integer holds as well."""
    from opacus.accountants.analysis.rdp import compute_rdp

    def of(some: list[float]) -> Curve:
        return np.asarray(compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=some), np.float64)

    try:
        return of(list(orders))
    except ValueError:
        return of([float(max(2, math.ceil(order))) for order in orders])


@lru_cache(maxsize=64)
def _moving_rdp(noise_multiplier: float, rate: float) -> Curve:
    """From one vector to none and from none to another, by the weak triangle inequality (Mironov, CSF 2017, cor. 4)."""
    orders = np.asarray(ORDERS)
    away = rdp_of_step(noise_multiplier, rate, tuple(2 * orders))
    back = rdp_of_step(noise_multiplier, rate, tuple(2 * orders - 1))
    curve: Curve = (orders - 0.5) / (orders - 1) * away + back
    return curve


@lru_cache(maxsize=64)
def _group_rdp(noise_multiplier: float, rate: float, group: int) -> Curve:
    """One step, by numerical integration of the mixture that `group` sampled units make.

    Neighbours differ at most as N(0, s^2) and the mixture over i, binomial, of N(i, s^2) do (the paper, theorem 3.1).
    """
    orders = np.asarray(ORDERS)
    gaussian: Curve = orders * group**2 / (2 * noise_multiplier**2)
    if rate == 1.0 or _points(noise_multiplier, group) * (group + 1) > _MAX_TERMS_OF_ALL:
        return gaussian  # that all are sampled always is the worst case
    curve = np.full(len(orders), np.inf)
    grid, step, max_order = _grid(noise_multiplier, group)
    log_with, log_without = _log_densities(grid, noise_multiplier, rate, group)
    for index, order in enumerate(orders):
        if order <= max_order:
            there = _log_integral(order * log_with + (1 - order) * log_without, step)
            back = _log_integral(order * log_without + (1 - order) * log_with, step)
            curve[index] = max(there, back, 0.0) / (order - 1)
    return rounded_up(curve)


def _points(sigma: float, group: int) -> float:
    """The number of points of `_grid`, without making them."""
    step, max_order = _step(sigma, group)
    return (max_order * group + 2 * _TAIL_SIGMAS * sigma) / step


def _grid(sigma: float, group: int) -> tuple[npt.NDArray[np.float64], float, float]:
    """Points, their distance, and the largest order whose integrand they cover: order a reaches to a times the group.

    The trapezoid rule's error on functions like these falls as exp(-2 pi d / step), where d, here pi sigma^2, is how
    far from the real line the mixture of neighbouring components has its zeros.
    """
    step, max_order = _step(sigma, group)
    low, high = -_TAIL_SIGMAS * sigma, max_order * group + _TAIL_SIGMAS * sigma
    return np.arange(low, high, step), step, max_order


def _step(sigma: float, group: int) -> tuple[float, float]:
    step = min(sigma / 8, sigma**2 / 2)
    return step, min(_MAX_GROUP_ORDER, max(2.0, _MAX_TERMS / (group + 1) * step / group))


def _log_densities(
    x: npt.NDArray[np.float64], sigma: float, rate: float, group: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Log densities at x with the group and without it, up to a constant that both share."""
    from scipy.stats import binom

    weights = binom.logpmf(np.arange(group + 1), group, rate)
    mixed = np.full(len(x), -np.inf)
    for sampled, weight in enumerate(weights):
        mixed = np.logaddexp(mixed, weight - (x - sampled) ** 2 / (2 * sigma**2))
    constant = np.log(sigma * np.sqrt(2 * np.pi))
    return mixed - constant, -(x**2) / (2 * sigma**2) - constant


def _log_integral(log_values: npt.NDArray[np.float64], step: float) -> float:
    from scipy.special import logsumexp

    return float(logsumexp(log_values) + np.log(step))
