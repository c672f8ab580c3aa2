"""Metrics of verification, from scored comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from moretta.shared.audit.metrics.scores import TieGroups, Trials, metric
from moretta.shared.core.array_types import Float64, Int64


@dataclass(frozen=True)
class Pav:
    """Blocks of the isotonic fit, by ascending score."""

    mated: Float64
    """Counts [blocks], as `nonmated`."""
    nonmated: Float64
    llr: Float64
    """Natural log-likelihood ratio of each block; it may be infinite at the ends."""
    block: Int64
    """int [groups], the block of each tie group."""


def pav(ties: TieGroups) -> Pav:
    """Optimal calibration of scores to log-likelihood ratios (Bruemmer and du Preez, 2006, section 6).

    Isotonic regression of "mated" on the score; the prior odds of the trial list are taken out of the posterior.
    """
    from scipy.optimize import isotonic_regression

    total = ties.mated + ties.nonmated
    fit = isotonic_regression(ties.mated / total, weights=total)
    starts = np.asarray(fit.blocks[:-1], dtype=np.int64)
    # Counts, not the fitted means, so that pure blocks are exactly pure and the result is free of rounding.
    mated, nonmated = np.add.reduceat(ties.mated, starts), np.add.reduceat(ties.nonmated, starts)
    with np.errstate(divide="ignore"):
        llr = np.log(mated) - np.log(nonmated) - np.log(mated.sum() / nonmated.sum())
    return Pav(mated, nonmated, llr, np.repeat(np.arange(len(starts)), np.diff(fit.blocks)))


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

    The attacker reaches it by randomising between thresholds: never above the plain EER's better side, invariant to
    any increasing map of the scores.
    """
    blocks = pav(trials.ties)
    return _crossing(blocks.mated, blocks.nonmated)


def _crossing(mated: Float64, nonmated: Float64) -> float:
    """Where the path of (miss, false accept) crosses the diagonal, from counts by ascending score."""
    miss = np.concatenate([[0.0], np.cumsum(mated) / mated.sum()])  # [thresholds + 1]
    false_accept = np.concatenate([[1.0], 1 - np.cumsum(nonmated) / nonmated.sum()])
    gap = miss - false_accept
    after = int(np.argmax(gap >= 0))
    before = after - 1
    step = -gap[before] / (gap[after] - gap[before])
    return float(miss[before] + step * (miss[after] - miss[before]))


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


def affine_calibration(trials: Trials) -> Callable[[Float64], Float64]:
    """A map from scores to natural log-likelihood ratios, fitted by prior-weighted logistic regression.

    Fit it on the attacker's own trials, never on those it is measured by (Bruemmer and du Preez, 2006, section 7).
    """
    from scipy.optimize import minimize

    centre, scale = float(trials.scores.mean()), float(trials.scores.std()) or 1.0
    mated, nonmated = (trials.mated_scores - centre) / scale, (trials.nonmated_scores - centre) / scale

    def cost(theta: Float64) -> float:
        # The ridge keeps the slope finite where the two classes do not overlap.
        return _cost(theta[0] * mated + theta[1], theta[0] * nonmated + theta[1]) + 1e-6 * float(theta @ theta)

    slope, offset = minimize(cost, np.array([1.0, 0.0]), method="BFGS").x
    return lambda scores: slope * (np.asarray(scores, dtype=np.float64) - centre) / scale + offset


def _cost(mated: Float64, nonmated: Float64) -> float:
    return float(np.logaddexp(0, -mated).mean() + np.logaddexp(0, nonmated).mean()) / 2 / float(np.log(2))


def _weighted(values: Float64, counts: Float64) -> float:
    """Mean of values by counts; an infinite value of count zero does not occur and must not count."""
    there = counts > 0
    return float(values[there] @ counts[there] / counts.sum())


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


TPR_METRICS = {0.001: "tpr_at_fpr_01pct", 0.01: "tpr_at_fpr_1pct"}
"""Share of mated trials accepted, in [0, 1], where at most this share of the non-mated ones is."""
for _fpr, _name in TPR_METRICS.items():
    metric(_name, unit="rate", chance=_fpr, private="low")(partial(tpr_at_fpr, fpr=_fpr))


def resolution_note(trials: Trials, fpr: float) -> str | None:
    """Why a false-positive rate cannot be resolved by these trials, or None if it can."""
    nonmated, needed = int((~trials.mated).sum()), math.ceil(1 / fpr - 1e-9)
    if nonmated >= needed:
        return None
    return f"{nonmated} non-mated trials cannot resolve a false-positive rate of {fpr:g}: at least {needed} are needed"


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
    edges = np.linspace(low, high, max(1, min(MAX_BINS, len(trials.mated_scores) // MATED_PER_BIN)) + 1)
    mated, nonmated = (np.histogram(scores, edges)[0] for scores in (trials.mated_scores, trials.nonmated_scores))
    return _linkability(mated, nonmated)


@metric("d_sys_monotone", unit="share", chance=0.0, private="low")
def d_sys_monotone(trials: Trials) -> float:
    """The same with the likelihood ratio of the PAV fit, in [0, 1]: no bins, invariant to increasing maps.

    It supposes that a higher score never means less alike, and sees no leak in scores that are merely inverted.
    """
    blocks = pav(trials.ties)
    return _linkability(blocks.mated, blocks.nonmated)


def _linkability(mated_counts: Float64, nonmated_counts: Float64) -> float:
    """Mean local linkability from the numbers of mated and of non-mated scores in each cell."""
    mated, nonmated = mated_counts / mated_counts.sum(), nonmated_counts / nonmated_counts.sum()
    # 2 w LR / (1 + w LR) - 1 = (w m - n) / (w m + n), which needs no division by an empty non-mated cell.
    total = OMEGA * mated + nonmated
    local = np.divide(OMEGA * mated - nonmated, total, out=np.zeros_like(total), where=total > 0)
    return float(np.maximum(local, 0) @ mated)


NO_PRIVACY_BITS = float(1 / (2 * np.log(2)))
"""Expected disclosure of perfect evidence: the integral of the binary entropy over all priors, 0.721 bit."""
TAGS = ((1e-12, "0"), (1.0, "A"), (2.0, "B"), (4.0, "C"), (5.0, "D"), (6.0, "E"), (np.inf, "F"))
"""Upper limits of |log10 LR| and their tags, after the ENFSI scale of evidence (table 1 of the paper)."""


def zebra_tag(worst: float) -> str:
    """Category of a worst-case disclosure in |log10 LR|: `0` for none, then `A` (below 10:1) to `F` (from 10^6:1)."""
    return next(tag for limit, tag in TAGS if worst <= limit)


@metric("zebra_expected", unit="bit", chance=0.0, private="low")
def zebra_expected(trials: Trials) -> float:
    """Expected privacy disclosure D_ECE of the population, in bits, in [0, 0.721].

    Empirical cross-entropy that the evidence takes away from an adversary who has no evidence, averaged over every
    prior belief in [0, 1], after the best monotone calibration.
    """
    blocks = pav(trials.ties)
    remaining = _weighted(prior_averaged_entropy(blocks.llr), blocks.mated)
    remaining += _weighted(prior_averaged_entropy(-blocks.llr), blocks.nonmated)
    return max(0.0, NO_PRIVACY_BITS - remaining / float(np.log(2)))


@metric("zebra_worst", unit="log10 LR", chance=0.0, private="low", tag=zebra_tag)
def zebra_worst(trials: Trials) -> float:
    """Worst-case disclosure for an individual: the largest |log10 LR| of any trial, at least 0.

    One mated and one non-mated trial are added beyond both ends (Laplace's rule of succession), so n trials resolve at
    most about log10 n; the prior odds are those of the real trials, as in the ZEBRA toolkit. Chance is 0 for constant
    scores and positive for random ones, because it is a maximum.
    """
    ties = trials.ties
    if len(ties.scores) == 1:
        # The added trials alone would otherwise make a constant look informative in an unbalanced list.
        return 0.0
    scores = np.concatenate([[-np.inf], ties.scores, [np.inf]])
    padded = TieGroups(scores, *(np.concatenate([[1.0], counts, [1.0]]) for counts in (ties.mated, ties.nonmated)))
    fit = pav(padded)
    padded_odds, odds = padded.mated.sum() / padded.nonmated.sum(), ties.mated.sum() / ties.nonmated.sum()
    llr = fit.llr + np.log(padded_odds / odds)
    return float(np.abs(llr[fit.block[1:-1]]).max() / np.log(10))


def prior_averaged_entropy(llr: Float64) -> Float64:
    """Integral over the prior p of p ln(1 + (1 - p) / (p LR)), in nats: 1/4 without evidence, 0 for certainty.

    Closed form, by parts: (q - llr q^2) / 2 with q = 1 / (LR - 1); a series where LR is nearly 1. `llr`: natural
    log-likelihood ratios in favour of the truth, any shape, infinities allowed.
    """
    llr = np.clip(np.asarray(llr, dtype=np.float64), -700, 700)
    near = np.abs(llr) < 1e-3
    q = 1 / np.expm1(np.where(near, 1.0, llr))
    exact = (q - llr * q**2) / 2
    b = -np.expm1(-llr)
    series = 1 / 4 - b / 6 - b**2 / 24 - b**3 / 60
    return np.where(near, series, exact)
