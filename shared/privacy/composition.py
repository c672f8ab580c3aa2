"""Composition: what losses of any kind amount to together, for one unit that all of them are about."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from moretta.shared.privacy.accounting import epsilon_spent
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.gaussian import Gaussian, gaussian_epsilon
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.renyi import ORDERS, epsilon_of


def composed_epsilon(losses: Iterable[Mechanism], *, delta: float) -> float | None:
    """The least epsilon that is proven for all losses together; 0.0 for none, None if there is no finite one.

    Composition is adaptive: what is released later may depend on what was released before. Several ways of adding up
    are tried, each a proof of its own, and the smallest result is taken: Renyi divergences; pure epsilons; the pure
    losses' epsilons beside the others' Renyi divergence; Gaussians exactly; and Opacus' PRV accountant for DP-SGD.

    Args:
        losses: all about the same unit.
        delta: 0 asks for a pure guarantee.

    >>> composed_epsilon([], delta=1e-5)
    0.0
    """
    counts = Counter(losses)
    if not counts:
        return 0.0
    found = [_by_renyi(counts, delta), _pure(counts), _pure_beside_renyi(counts, delta), _gaussians(counts, delta)]
    found.append(_dp_sgd(counts, delta))
    return min((epsilon for epsilon in found if epsilon is not None and math.isfinite(epsilon)), default=None)


def group_privacy(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """Epsilon and delta for `size` units that change together, from those of one (Vadhan 2017, lemma 2.2).

    It knows nothing of the mechanism, so `Mechanism.for_group` is never worse; delta at or above 1 guarantees nothing.

    >>> group_privacy(1.0, 0.0, 3)
    (3.0, 0.0)
    """
    from scipy.special import logsumexp

    if delta == 0:
        return size * epsilon, 0.0
    grown = logsumexp(epsilon * np.arange(size)) + math.log(delta)  # delta times 1 + e^epsilon + e^(2 epsilon) + ...
    return size * epsilon, min(math.exp(min(grown, 0.0)), 1.0)


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
