"""Composition of losses, and calibration of DP-SGD's noise to a target, by Opacus' accountants.

RDP: Mironov et al. 2019, "RDP of the sampled Gaussian mechanism". PRV: Gopi, Lee and Wutschitz, NeurIPS 2021,
"Numerical Composition of Differential Privacy": tighter by about an eighth, and slower.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.privacy.dp_sgd import SampledGaussian, rdp_of_step
from moretta.shared.privacy.gaussian import Gaussian, gaussian_epsilon, least
from moretta.shared.privacy.mechanism import ORDERS, Mechanism, Unbounded, epsilon_of, least_epsilon
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.sections import Accountant

_PRECISION: dict[Accountant, float] = {"rdp": 1e-3, "prv": 5e-3}
"""Relative precision of calibrated noise: each trial of the PRV accountant takes a good part of a second."""
_FEW_ORDERS = ORDERS[::4]
"""For the search, which takes many steps: they cost a quarter, and a thousandth of the epsilon."""
_PRV_EPSILON = 50.0
"""Where the Renyi accountant finds more, the PRV accountant's grid gets large and says little that is new."""
_PRV_DELTA = 1e-8
"""Below it, the Fourier transforms' own rounding is no longer small beside delta: the bound is no bound."""
_PRV_ROUNDING = 1e-11
"""The part of delta that those may have lost."""
_PRV_POINTS = 2**24
"""A grid of more takes minutes and gigabytes."""
_PRV_ERROR = 0.01
"""Error of epsilon that Opacus allows by default."""
_NO_NOISE = "the code was trained on the sites' clips without noise, which guarantees nothing"
_NOTES = {
    "speaker": "training of the code at the sites, {rounds} rounds, a speaker with all clips one example, beside the "
    "release; not covered: how many speakers there are, and who is held out of training",
    "clip": "training of the code at the sites, {rounds} rounds, clips distinguished from public speech, each one "
    "example, beside the release; not covered: how many clips there are, and who is held out of training",
}


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


def _by_prv(steps: tuple[tuple[tuple[float, float], int], ...], delta: float) -> float:
    """Epsilon by the PRV accountant; infinity where Opacus' accountant gives no figure."""
    if all(rate == 1.0 for (_, rate), _ in steps):
        return gaussian_epsilon(delta, math.sqrt(sum(number / sigma**2 for (sigma, _), number in steps)))
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    _remember_steps()
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


@cache
def _remember_steps() -> None:
    """Let Opacus compute the curve of one step once: it does so anew for every number of steps, four times each."""
    from opacus.accountants.analysis import rdp

    rdp._compute_rdp = lru_cache(maxsize=1 << 14)(rdp._compute_rdp)


@lru_cache(maxsize=256)
def calibrated_noise(*, epsilon: float, delta: float, rate: float, steps: int, accountant: Accountant = "rdp") -> float:
    """The least noise multiplier, to half a percent, with which `steps` steps spend at most `epsilon` at `delta`.
    Raises StudyError: no noise keeps so little at this delta by the accountants there are."""

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
    rest = {loss: times for loss, times in counts.items() if loss.pure_epsilon is None}
    alone = sum(loss.pure_epsilon * times for loss, times in counts.items() if loss.pure_epsilon is not None)
    found = [_by_renyi(counts, delta)]
    if not rest:
        found.append(alone)
    elif (beside := _gaussians(rest, delta)) is not None:
        found.append(beside + alone)
    steps = [replace(m, steps=m.steps * n) for m, n in rest.items() if isinstance(m, SampledGaussian) and m.is_plain]
    if delta > 0 and rest and len(steps) == len(counts):
        found.append(epsilon_spent(steps, delta=delta, accountant="prv"))
    return min((epsilon for epsilon in found if epsilon is not None and math.isfinite(epsilon)), default=None)


def _by_renyi(counts: Mapping[Mechanism, int], delta: float) -> float | None:
    total = np.zeros(len(ORDERS))
    for loss, times in counts.items():
        total += times * loss.renyi()
    return epsilon_of(total, delta=delta)


def _gaussians(counts: Mapping[Mechanism, int], delta: float) -> float | None:
    """Gaussians compose to a Gaussian (Dong, Roth and Su 2022, corollary 3.3); anything else by Renyi divergence."""
    ratios = [(loss.ratio, times) for loss, times in counts.items() if isinstance(loss, Gaussian)]
    if len(ratios) != len(counts):
        return _by_renyi(counts, delta)
    return gaussian_epsilon(delta, math.sqrt(sum(times * ratio**2 for ratio, times in ratios))) if delta > 0 else None


def training_step(plan: SiteTrainingPlan) -> SampledGaussian | None:
    """One round's step of an encoder that sites train together, for the unit whose gradient is clipped; None where the
    study requests no noise. Every unit is in every step, so the noise depends on the study alone."""
    if not plan.epsilon:
        return None
    noise = calibrated_noise(epsilon=plan.epsilon, delta=plan.delta, rate=1.0, steps=plan.rounds)
    return SampledGaussian(noise_multiplier=noise, rate=1.0, steps=1, unit=plan.unit)


def training_losses(
    plan: SiteTrainingPlan, most_clips: int, *, rounds: int | None = None
) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
    """Losses of a clip, and of the speaker with most clips, by some rounds, None for all.

    Where speakers are the examples, a clip is normalized by the speaker's other clips: without it the gradient moves.
    Where clips are the examples, normalized by public speech, a clip moves its own gradient alone, and a speaker is a
    group of clips.
    """
    step = training_step(plan)
    if step is None:
        units: tuple[PrivacyUnit, ...] = ("clip", "speaker")
        return {unit: (Unbounded(unit=unit, why=_NO_NOISE),) for unit in units}
    return replace(step, steps=rounds or plan.rounds).by_unit(max(most_clips, 1))


def training_statements(plan: SiteTrainingPlan | None, sizes: dict[str, list[int]]) -> tuple[PrivacyStatement, ...]:
    """Rows of a release's statement: none where sites train nothing. `sizes`: for each released speaker, an entry for
    each released clip."""
    if plan is None or not sizes:
        return ()
    noisy = plan.epsilon > 0
    return tuple(
        PrivacyStatement(
            mechanism="DP-SGD for the federated code" if noisy else "training of the federated code",
            unit=unit,
            epsilon=composed_epsilon(losses, delta=plan.delta),
            delta=plan.delta if noisy else 0.0,
            nominal=plan.epsilon if noisy and unit == plan.unit else None,
            note=_NOTES[plan.unit].format(rounds=plan.rounds) if noisy else _NO_NOISE,
        )
        for unit, losses in training_losses(plan, max(map(len, sizes.values()))).items()
    )
