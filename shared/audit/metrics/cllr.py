"""Cost of log-likelihood ratios, actual and minimum (Bruemmer and du Preez, Computer Speech and Language, 2006)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moretta.shared.audit.metrics.metric_registry import metric
from moretta.shared.audit.metrics.pav import pav
from moretta.shared.audit.metrics.trials import Floats, Trials


@metric("cllr", unit="bit", chance=1.0, private="high", needs_llr=True)
def cllr(trials: Trials) -> float:
    """Actual Cllr of scores that claim to be natural log-likelihood ratios, in bits, in [0, infinity).

    0 for perfect evidence, 1 for evidence always 0; above 1 the evidence misleads. Raw cosines are not
    log-likelihood ratios: map them with `affine_calibration` first.
    """
    return _cost(trials.mated_scores, trials.nonmated_scores)


@metric("min_cllr", unit="bit", chance=1.0, private="high")
def min_cllr(trials: Trials) -> float:
    """Cllr after the best monotone calibration (PAV), in bits, in [0, 1]: what the ordering alone gives away."""
    blocks = pav(trials.ties)
    with np.errstate(over="ignore"):
        mated = _weighted(np.logaddexp(0, -blocks.llr), blocks.mated)
        nonmated = _weighted(np.logaddexp(0, blocks.llr), blocks.nonmated)
    return (mated + nonmated) / 2 / float(np.log(2))


def affine_calibration(trials: Trials) -> Callable[[Floats], Floats]:
    """A map from scores to natural log-likelihood ratios, fitted by prior-weighted logistic regression.

    Fit it on the attacker's own trials, never on those it is judged by (Bruemmer and du Preez, 2006, section 7).
    """
    from scipy.optimize import minimize

    centre, scale = float(trials.scores.mean()), float(trials.scores.std()) or 1.0
    mated, nonmated = (trials.mated_scores - centre) / scale, (trials.nonmated_scores - centre) / scale

    def cost(theta: Floats) -> float:
        # The ridge keeps the slope finite where the two classes do not overlap.
        return _cost(theta[0] * mated + theta[1], theta[0] * nonmated + theta[1]) + 1e-6 * float(theta @ theta)

    slope, offset = minimize(cost, np.array([1.0, 0.0]), method="BFGS").x
    return lambda scores: slope * (np.asarray(scores, dtype=np.float64) - centre) / scale + offset


def _cost(mated: Floats, nonmated: Floats) -> float:
    return float(np.logaddexp(0, -mated).mean() + np.logaddexp(0, nonmated).mean()) / 2 / float(np.log(2))


def _weighted(values: Floats, counts: Floats) -> float:
    """Mean of values by counts; an infinite value of count zero does not occur and must not count."""
    there = counts > 0
    return float(values[there] @ counts[there] / counts.sum())
