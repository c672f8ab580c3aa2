"""Composition of losses, and calibration of DP-SGD's noise to a target, by Opacus' accountants.

RDP: Mironov et al. 2019, "RDP of the sampled Gaussian mechanism". PRV: Gopi, Lee and Wutschitz, NeurIPS 2021,
"Numerical Composition of Differential Privacy": tighter by about an eighth, and slower.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from moretta.shared.core.errors import StudyError
from moretta.shared.privacy.dp_sgd import SampledGaussian, rdp_of_step
from moretta.shared.privacy.gaussian import Gaussian, gaussian_epsilon, least
from moretta.shared.privacy.mechanism import ORDERS, Mechanism, epsilon_of, least_epsilon
from moretta.shared.study.sections import Accountant

_PRECISION: dict[Accountant, float] = {"rdp": 1e-3, "prv": 5e-3}
"""Relative, of calibrated noise: each trial of the PRV accountant takes a good part of a second."""


def epsilon_spent(history: Iterable[SampledGaussian], *, delta: float, accountant: Accountant = "rdp") -> float:
    """Epsilon of all steps together at `delta`, for the unit that was sampled; 0.0 for none.

    >>> epsilon_spent([], delta=1e-3)
    0.0
    """
    steps: Counter[tuple[float, float]] = Counter()
    for part in history:
        steps[part.noise_multiplier, part.rate] += part.steps
    return _spent(tuple(sorted(steps.items())), delta, accountant)


@lru_cache(maxsize=256)
def _spent(steps: tuple[tuple[tuple[float, float], int], ...], delta: float, accountant: Accountant) -> float:
    total = np.zeros(len(ORDERS))
    for (noise_multiplier, rate), number in steps:
        total += SampledGaussian(noise_multiplier=noise_multiplier, rate=rate, steps=number).renyi()
    epsilon = epsilon_of(total, delta=delta)
    if epsilon is None:
        return math.inf
    if accountant == "prv" and 0 < epsilon < _PRV_EPSILON and delta >= _PRV_DELTA:
        return min(epsilon, _by_prv(steps, delta))  # both are bounds, and PRV adds its own error to what it finds
    return epsilon


_PRV_EPSILON = 50.0
"""Where the Renyi accountant finds more, the PRV accountant's grid gets large and says little that is new."""
_PRV_DELTA = 1e-8
"""Below it, the Fourier transforms' own rounding is no longer small beside delta: the bound is no bound."""
_PRV_ROUNDING = 1e-11
"""The part of delta that those may have lost."""
_PRV_POINTS = 2**24
"""A grid of more takes minutes and gigabytes."""


def _by_prv(steps: tuple[tuple[tuple[float, float], int], ...], delta: float) -> float:
    """Infinity where Opacus' accountant gives no figure."""
    if all(rate == 1.0 for (_, rate), _ in steps):
        return gaussian_epsilon(delta, math.sqrt(sum(number / sigma**2 for (sigma, _), number in steps)))
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    if any(rate == 1.0 for (_, rate), _ in steps):
        return math.inf  # its random variable has a density only where a unit may be left out
    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, rate, number) for (noise_multiplier, rate), number in steps]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of integrals over the far tails, which count for nothing
        try:
            domain = accountant._get_domain(
                prvs=[PoissonSubsampledGaussianPRV(rate, sigma) for (sigma, rate), _ in steps],
                num_self_compositions=[number for _, number in steps],
                eps_error=_PRV_ERROR,
                delta_error=delta / 1000,
            )
            if domain.size > _PRV_POINTS:
                return math.inf
            found = float(accountant.get_epsilon(delta - _PRV_ROUNDING, eps_error=_PRV_ERROR))
        except (ValueError, RuntimeError, ArithmeticError, MemoryError, IndexError, AssertionError):
            return math.inf
    return found if math.isfinite(found) and found >= 0 else math.inf


_PRV_ERROR = 0.01
"""Opacus' own choice, of epsilon."""


_FEW_ORDERS = ORDERS[::4]
"""For the search, which takes many steps: they cost a quarter, and a thousandth of the epsilon."""


@lru_cache(maxsize=256)
def calibrated_noise(*, epsilon: float, delta: float, rate: float, steps: int, accountant: Accountant = "rdp") -> float:
    """The least noise multiplier, to half a percent, with which `steps` steps spend at most `epsilon` at `delta`.

    Raises:
        StudyError: no noise keeps so little at this delta by the accountants there are.
    """

    def by_rdp(noise_multiplier: float) -> bool:
        curve = steps * rdp_of_step(noise_multiplier, rate, _FEW_ORDERS)
        found = epsilon_of(curve, delta=delta, orders=_FEW_ORDERS)
        return found is not None and found <= epsilon

    def by_prv(noise_multiplier: float) -> bool:
        step = SampledGaussian(noise_multiplier=noise_multiplier, rate=rate, steps=steps)
        return epsilon_spent([step], delta=delta, accountant="prv") <= epsilon

    noise = least(by_rdp, start=1.0, precision=_PRECISION["rdp"])
    if not math.isfinite(noise):
        raise StudyError(
            f"no noise of DP-SGD keeps epsilon {epsilon:g} at delta {delta:g} over {steps} steps",
            expected=f"an epsilon of more than {least_epsilon(delta, _FEW_ORDERS):.3g} at this delta",
            fix="raise epsilon or delta in the study",
        )
    if accountant == "rdp":
        return noise
    return least(by_prv, start=noise, factor=1.1, precision=_PRECISION["prv"])


def composed_epsilon(losses: Iterable[Mechanism], *, delta: float) -> float | None:
    """The least epsilon that is proven for all losses together; 0.0 for none, None if there is no finite one.

    Composition is adaptive: what is released later may depend on what was released before. Several ways of adding up
    are tried, each a proof of its own, and the smallest result is taken: Renyi divergences; pure epsilons; the pure
    losses' epsilons beside the others' Renyi divergence; Gaussians exactly; and Opacus' PRV accountant for DP-SGD.

    Args:
        losses: all about the same unit.
        delta: 0 for a pure guarantee.

    >>> composed_epsilon([], delta=1e-5)
    0.0
    """
    counts = Counter(losses)
    if not counts:
        return 0.0
    found = [_by_renyi(counts, delta), _pure(counts), _pure_beside_renyi(counts, delta), _gaussians(counts, delta)]
    found.append(_dp_sgd(counts, delta))
    return min((epsilon for epsilon in found if epsilon is not None and math.isfinite(epsilon)), default=None)


def _by_renyi(counts: Counter[Mechanism], delta: float) -> float | None:
    total = np.zeros(len(ORDERS))
    for loss, times in counts.items():
        total += times * loss.renyi()
    return epsilon_of(total, delta=delta)


def _pure(counts: Counter[Mechanism]) -> float | None:
    pure = [(loss.pure_epsilon, times) for loss, times in counts.items()]
    known = [epsilon * times for epsilon, times in pure if epsilon is not None]
    return sum(known) if len(known) == len(pure) else None


def _pure_beside_renyi(counts: Counter[Mechanism], delta: float) -> float | None:
    pure = Counter({loss: times for loss, times in counts.items() if loss.pure_epsilon is not None})
    rest = Counter({loss: times for loss, times in counts.items() if loss.pure_epsilon is None})
    beside = _gaussians(rest, delta) if all(isinstance(loss, Gaussian) for loss in rest) else _by_renyi(rest, delta)
    alone = _pure(pure)
    return None if beside is None or alone is None else beside + alone


def _gaussians(counts: Counter[Mechanism], delta: float) -> float | None:
    """Gaussians compose to a Gaussian (Dong, Roth and Su 2022, corollary 3.3)."""
    ratios = [(loss.ratio, times) for loss, times in counts.items() if isinstance(loss, Gaussian)]
    if delta <= 0 or len(ratios) != len(counts):
        return None
    return gaussian_epsilon(delta, math.sqrt(sum(times * ratio**2 for ratio, times in ratios)))


def _dp_sgd(counts: Counter[Mechanism], delta: float) -> float | None:
    steps = [(loss, times) for loss, times in counts.items() if isinstance(loss, SampledGaussian) and loss.is_plain]
    if delta <= 0 or len(steps) != len(counts):
        return None
    history = [replace(loss, steps=loss.steps * times) for loss, times in steps]
    return epsilon_spent(history, delta=delta, accountant="prv")
