"""ZEBRA: zero evidence biometric recognition assessment (Nautsch et al., Interspeech 2020, arXiv 2005.09413)."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.metrics.metric_registry import metric
from moretta.shared.audit.metrics.pav import pav, pav_laplace
from moretta.shared.audit.metrics.trials import Floats, Trials

NO_PRIVACY_BITS = float(1 / (2 * np.log(2)))
"""Expected disclosure of perfect evidence: the integral of the binary entropy over all priors, 0.721 bit."""
TAGS = ((0.0, "0"), (1.0, "A"), (2.0, "B"), (4.0, "C"), (5.0, "D"), (6.0, "E"), (np.inf, "F"))
"""Upper limits of |log10 LR| and their tags, after the ENFSI scale of evidence (table 1 of the paper)."""
_ZERO = 1e-12


def zebra_tag(worst: float) -> str:
    """Category of a worst-case disclosure in |log10 LR|: `0` for none, then `A` (below 10:1) to `F` (from 10^6:1)."""
    if worst <= _ZERO:
        return "0"
    return next(tag for limit, tag in TAGS if worst <= limit)


@metric("zebra_expected", unit="bit", chance=0.0, private="low")
def zebra_expected(trials: Trials) -> float:
    """Expected privacy disclosure D_ECE of the population, in bits, in [0, 0.721].

    Empirical cross-entropy that the evidence takes away from an adversary who has no evidence, averaged over every
    prior belief in [0, 1], after the best monotone calibration.
    """
    blocks = pav(trials.ties)
    remaining = _mean_entropy(blocks.llr, blocks.mated) + _mean_entropy(-blocks.llr, blocks.nonmated)
    return max(0.0, NO_PRIVACY_BITS - remaining / float(np.log(2)))


@metric("zebra_worst", unit="log10 LR", chance=0.0, private="low", tag=zebra_tag)
def zebra_worst(trials: Trials) -> float:
    """Worst-case disclosure for an individual: the largest |log10 LR| of any trial, at least 0.

    With Laplace's rule of succession, so n trials resolve at most about log10 n; chance is 0 for constant scores and
    positive for random ones, because it is a maximum.
    """
    if len(trials.ties.scores) == 1:
        # The added trials alone would otherwise make a constant look informative in an unbalanced list.
        return 0.0
    fit = pav_laplace(trials.ties)
    return float(np.abs(fit.llr[fit.block]).max() / np.log(10))


def prior_averaged_entropy(llr: Floats) -> Floats:
    """Integral over the prior p of p ln(1 + (1 - p) / (p LR)), in nats: 1/4 without evidence, 0 for certainty.

    Closed form, by parts: (q - llr q^2) / 2 with q = 1 / (LR - 1); a series where LR is nearly 1.

    Args:
        llr: natural log-likelihood ratios in favour of the truth, any shape, infinities allowed.
    """
    llr = np.clip(np.asarray(llr, dtype=np.float64), -700, 700)
    near = np.abs(llr) < 1e-3
    q = 1 / np.expm1(np.where(near, 1.0, llr))
    exact = (q - llr * q**2) / 2
    b = -np.expm1(-llr)
    series = 1 / 4 - b / 6 - b**2 / 24 - b**3 / 60
    return np.where(near, series, exact)


def _mean_entropy(llr: Floats, counts: Floats) -> float:
    there = counts > 0
    return float(prior_averaged_entropy(llr[there]) @ counts[there] / counts.sum())
