"""Renyi differential privacy (Mironov, CSF 2017): losses that add up, and what they mean as epsilon at a delta."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.float64]
"""Renyi divergence at each of `ORDERS`."""

ORDERS: tuple[float, ...] = (
    *(1.001, 1.002, 1.005, 1.01, 1.02, 1.05),
    *(1 + x / 10.0 for x in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(72.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Those of Opacus' own accountant, larger ones for small losses, and smaller ones for losses in the thousands."""


_LOG_ERROR = 1e-11
"""Of the logarithm of a moment, computed in float64 by sums of up to a thousand terms, each of which is known to about
1e-12, and cut off at 1e-13."""


def rounded_up(curve: Curve, orders: tuple[float, ...] = ORDERS) -> Curve:
    """A computed curve that is nowhere below the true one: small losses vanish in the rounding of a moment near 1."""
    upper: Curve = np.maximum(curve, 0.0) * (1 + 1e-9) + _LOG_ERROR / (np.asarray(orders) - 1)
    return upper


def least_epsilon(delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """What a loss of next to nothing means as epsilon by these orders: no target below it can be reached.

    >>> round(least_epsilon(1e-5), 4)
    0.0035
    """
    return epsilon_of(np.full(len(orders), 1e-300), delta=delta, orders=orders) or 0.0


def epsilon_of(
    curve: Curve, *, delta: float, pure: float | None = None, orders: tuple[float, ...] = ORDERS
) -> float | None:
    """Epsilon at `delta`, by the conversion of Balle et al. (AISTATS 2020, theorem 21) as Opacus has it.

    Args:
        curve: the whole loss.
        delta: 0 asks for a pure guarantee.
        pure: epsilon at delta 0 where there is one: it holds at every delta.
        orders: those of the curve. Every order proves a bound of its own, so fewer give a larger epsilon, never a wrong
            one.

    Returns:
        None if nothing finite is guaranteed.

    >>> epsilon_of(np.zeros(len(ORDERS)), delta=1e-5)
    0.0
    """
    if not curve.any():
        return 0.0
    bounds = [] if pure is None else [pure]
    if delta > 0 and np.isfinite(curve).any():
        from opacus.accountants.analysis.rdp import get_privacy_spent

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the best order may be the first or the last: still a bound
            epsilon, _ = get_privacy_spent(orders=list(orders), rdp=curve, delta=delta)
        bounds.append(max(float(epsilon), 0.0))
    return min(bounds, default=None)


def renyi_of_table(p: Curve, q: Curve) -> Curve:
    """Renyi divergence of two distributions over few outcomes, the larger of both directions.

    Args:
        p: [outcomes], positive, sum 1.
        q: [outcomes], positive, sum 1.
    """
    from scipy.special import logsumexp

    orders = np.asarray(ORDERS)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # an outcome that never comes tells without limit
        log_p, log_q = np.log(p)[None], np.log(q)[None]
        there = logsumexp(orders * log_p + (1 - orders) * log_q, axis=1)
        back = logsumexp(orders * log_q + (1 - orders) * log_p, axis=1)
    curve: Curve = np.maximum(there, back) / (orders[:, 0] - 1)
    return rounded_up(np.where(np.isnan(curve), np.inf, curve))
