"""Linkability D_sys (Gomez-Barrero, Galbally, Rathgeb and Busch, IEEE TIFS 13(6), 2018)."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.metrics.metric_registry import metric
from moretta.shared.audit.metrics.pav import pav
from moretta.shared.audit.metrics.trials import Floats, Trials

OMEGA = 1.0
"""Prior odds of mated to non-mated, as in the VoicePrivacy Challenge."""
MATED_PER_BIN, MAX_BINS = 10, 100


@metric("d_sys", unit="share", chance=0.0, private="low")
def d_sys(trials: Trials) -> float:
    """Global linkability, in [0, 1]: 0 where mated and non-mated scores look alike, 1 where they do not overlap.

    Local linkability 2 w LR / (1 + w LR) - 1 where w LR > 1, else 0, averaged over the mated density. Densities are
    histograms of equal width with at most 100 bins and 10 mated scores a bin on average, as the challenge's are. It
    is biased upward in small samples (0.06 at 500 mated scores without any leak, measured): compare it with
    `d_sys_monotone`, and with the constant anchor, before reading much into small values.
    """
    low, high = float(trials.scores.min()), float(trials.scores.max())
    if low == high:
        return 0.0
    bins = max(1, min(MAX_BINS, len(trials.mated_scores) // MATED_PER_BIN))
    edges = np.linspace(low, high, bins + 1)
    mated, _ = np.histogram(trials.mated_scores, edges)
    nonmated, _ = np.histogram(trials.nonmated_scores, edges)
    return _global(mated / mated.sum(), nonmated / nonmated.sum())


@metric("d_sys_monotone", unit="share", chance=0.0, private="low")
def d_sys_monotone(trials: Trials) -> float:
    """The same with the likelihood ratio of the PAV fit, in [0, 1]: no bins, invariant to increasing maps.

    It supposes that a higher score never means less alike, and sees no leak in scores that are merely inverted.
    """
    blocks = pav(trials.ties)
    return _global(blocks.mated / blocks.mated.sum(), blocks.nonmated / blocks.nonmated.sum())


def _global(mated: Floats, nonmated: Floats) -> float:
    """Mean local linkability from the share of mated and of non-mated scores in each cell."""
    # 2 w LR / (1 + w LR) - 1 = (w m - n) / (w m + n), which needs no division by an empty non-mated cell.
    total = OMEGA * mated + nonmated
    local = np.divide(OMEGA * mated - nonmated, total, out=np.zeros_like(total), where=total > 0)
    return float(np.maximum(local, 0) @ mated)
