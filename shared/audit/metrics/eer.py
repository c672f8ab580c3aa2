"""Equal error rate."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.metrics.metric_registry import metric
from moretta.shared.audit.metrics.pav import pav
from moretta.shared.audit.metrics.trials import Floats, Trials


@metric("eer", unit="rate", chance=0.5, private="high")
def eer(trials: Trials) -> float:
    """Error rate where misses and false accepts are equally frequent, in [0, 1]; 0.5 is chance.

    Linear interpolation between the two operating points of the ROC that enclose it; tied scores are one operating
    point, so a constant score gives exactly 0.5. Above 0.5 the attacker's scores are inverted.
    """
    return _crossing(trials.ties.mated, trials.ties.nonmated)


@metric("eer_hull", unit="rate", chance=0.5, private="high")
def eer_hull(trials: Trials) -> float:
    """Equal error rate on the convex hull of the ROC (Bruemmer and du Preez, 2006), in [0, 0.5].

    What the attacker reaches by randomising between thresholds: never above the plain EER's better side, invariant to
    any increasing map of the scores.
    """
    blocks = pav(trials.ties)
    return _crossing(blocks.mated, blocks.nonmated)


def _crossing(mated: Floats, nonmated: Floats) -> float:
    """Where the path of (miss, false accept) crosses the diagonal, from counts by ascending score."""
    miss = np.concatenate([[0.0], np.cumsum(mated) / mated.sum()])  # [thresholds + 1]
    false_accept = np.concatenate([[1.0], 1 - np.cumsum(nonmated) / nonmated.sum()])
    gap = miss - false_accept
    after = int(np.argmax(gap >= 0))
    before = after - 1
    step = -gap[before] / (gap[after] - gap[before])
    return float(miss[before] + step * (miss[after] - miss[before]))
