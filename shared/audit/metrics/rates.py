"""True positives at low false-positive rates, where equal error rates hide leakage (arXiv 2509.18413)."""

from __future__ import annotations

import math

import numpy as np

from moretta.shared.audit.metrics.metric_registry import metric
from moretta.shared.audit.metrics.trials import Trials


@metric("tpr_at_fpr_1pct", unit="rate", chance=0.01, private="low")
def tpr_at_fpr_1pct(trials: Trials) -> float | None:
    """Share of mated trials accepted where at most 1 % of the non-mated ones are, in [0, 1]."""
    return tpr_at_fpr(trials, 0.01)


@metric("tpr_at_fpr_01pct", unit="rate", chance=0.001, private="low")
def tpr_at_fpr_01pct(trials: Trials) -> float | None:
    """Share of mated trials accepted where at most 0.1 % of the non-mated ones are, in [0, 1]."""
    return tpr_at_fpr(trials, 0.001)


def tpr_at_fpr(trials: Trials, fpr: float) -> float | None:
    """Best true-positive rate of any threshold whose false-positive rate is at most `fpr`.

    No interpolation: a threshold that was not observed is not claimed. Ties are accepted together. None where the
    trials cannot resolve the rate; `resolution_note` says why.
    """
    if resolution_note(trials, fpr) is not None:
        return None
    ties = trials.ties
    false_positives = np.concatenate([[0.0], np.cumsum(ties.nonmated[::-1])])
    true_positives = np.concatenate([[0.0], np.cumsum(ties.mated[::-1])])
    # Counts against a rounded-up limit would accept one too many: 0.01 * 300 is 3.0000000000000004 in floats.
    allowed = math.floor(fpr * float(ties.nonmated.sum()) + 1e-9)
    last = int(np.searchsorted(false_positives, allowed, side="right")) - 1
    return float(true_positives[last] / true_positives[-1])


def resolution_note(trials: Trials, fpr: float) -> str | None:
    """Why a false-positive rate cannot be resolved by these trials, or None if it can."""
    nonmated, needed = int((~trials.mated).sum()), math.ceil(1 / fpr - 1e-9)
    if nonmated >= needed:
        return None
    return f"{nonmated} non-mated trials cannot resolve a false-positive rate of {fpr:g}: at least {needed} are needed"
