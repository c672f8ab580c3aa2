"""Exact intervals of shares counted from independent trials."""

from __future__ import annotations

from moretta.shared.audit.metrics.bootstrap import Interval


def exact_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval (Biometrika, 1934): covers at least at its level, for every true share.

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        level: of confidence.
    """
    from scipy.stats import beta

    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(low, high, level, resamples=0)
