"""Metrics of verification, from scored comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from moretta.shared.audit.metrics.scores import OF_TIES, Trials, metric, metric_of_ties
from moretta.shared.audit.metrics.ties import Counts, TieGroups
from moretta.shared.core.array_types import Float64

_ROUNDING = 1e-9
"""Rounding error of products that stand for whole numbers of trials."""


@metric_of_ties("eer", unit="rate", chance=0.5, private="high")
def eer(ties: TieGroups) -> Float64:
    """Error rate where misses and false accepts are equally frequent, in [0, 1]; 0.5 is chance.

    Linear interpolation between the two operating points of the ROC that enclose it; tied scores are one operating
    point, so a constant score gives exactly 0.5. Above 0.5 the attacker's scores are inverted.
    """
    return _crossing(ties)


@metric_of_ties("eer_hull", unit="rate", chance=0.5, private="high")
def eer_hull(ties: TieGroups) -> Float64:
    """Equal error rate on the convex hull of the ROC (Bruemmer and du Preez, 2006), in [0, 0.5].

    The attacker reaches it by randomising between thresholds: never above the plain EER's better side, invariant to
    any increasing map of the scores.
    """
    return _crossing(ties.blocks)


def _crossing(counts: Counts) -> Float64:
    """[lists], where the path of (miss, false accept), which starts at (0, 1), crosses the diagonal."""
    miss = counts.running(counts.mated) / counts.all_mated[counts.list_of]  # [cells], above each of them
    false_accept = 1 - counts.running(counts.nonmated) / counts.all_nonmated[counts.list_of]
    gap = miss - false_accept
    crossed = np.flatnonzero(gap >= 0)
    after = crossed[np.searchsorted(crossed, counts.starts)]
    first, before = after == counts.starts, np.maximum(after - 1, 0)
    gap_before, miss_before = np.where(first, -1.0, gap[before]), np.where(first, 0.0, miss[before])
    step = -gap_before / (gap[after] - gap_before)
    return np.asarray(miss_before + step * (miss[after] - miss_before))


@metric_of_ties("cllr", unit="bit", chance=1.0, private="high", needs_llr=True)
def cllr(ties: TieGroups) -> Float64:
    """Actual Cllr of scores that claim to be natural log-likelihood ratios, in bits, in [0, infinity).

    0 for perfect evidence, 1 for evidence always 0; above 1 the evidence misleads. Raw cosines are not
    log-likelihood ratios: map them with `affine_calibration` first.
    """
    mated = ties.sums(np.logaddexp(0, -ties.scores)[ties.place] * ties.mated) / ties.all_mated
    nonmated = ties.sums(np.logaddexp(0, ties.scores)[ties.place] * ties.nonmated) / ties.all_nonmated
    return np.asarray((mated + nonmated) / 2 / np.log(2))


@metric_of_ties("min_cllr", unit="bit", chance=1.0, private="high")
def min_cllr(ties: TieGroups) -> Float64:
    """Cllr after the best monotone calibration (PAV), in bits, in [0, 1]: what the ordering alone gives away."""
    blocks = ties.blocks
    with np.errstate(over="ignore"):
        mated = _mean(blocks, np.logaddexp(0, -blocks.llr), blocks.mated)
        nonmated = _mean(blocks, np.logaddexp(0, blocks.llr), blocks.nonmated)
    return np.asarray((mated + nonmated) / 2 / np.log(2))


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


def _mean(of: Counts, values: Float64, counts: Float64) -> Float64:
    """[lists], mean of values by counts; an infinite value of count zero does not occur and must not count."""
    return np.asarray(of.sums(np.where(counts > 0, values, 0.0) * counts) / of.sums(counts))


def tpr_at_fpr(trials: Trials, fpr: float) -> float | None:
    """Best true-positive rate of any threshold whose false-positive rate is at most `fpr`.

    No interpolation: a threshold that was not observed is not claimed. Ties are accepted together. None where the
    trials cannot resolve the rate; `resolution_note` says why.
    """
    value = float(_tpr_of_ties(trials.ties, fpr)[0])
    return None if np.isnan(value) else value


def _tpr_of_ties(ties: TieGroups, fpr: float) -> Float64:
    """[lists], NaN where a list cannot resolve the rate."""
    # Counts against a rounded-up limit would accept one too many: 0.01 * 300 is 3.0000000000000004 in floats.
    allowed = np.floor(fpr * ties.all_nonmated + _ROUNDING)[ties.list_of]
    # A threshold at each cell accepts it and all above it.
    accepted = ties.all_nonmated[ties.list_of] - ties.running(ties.nonmated) + ties.nonmated <= allowed
    share = ties.sums(np.where(accepted, ties.mated, 0.0)) / ties.all_mated
    return np.where(ties.all_nonmated >= _needed(fpr), share, np.nan)


TPR_METRICS = {0.001: "tpr_at_fpr_01pct", 0.01: "tpr_at_fpr_1pct"}
"""Share of mated trials accepted, in [0, 1], where at most this share of the non-mated ones is."""
for _fpr, _name in TPR_METRICS.items():
    _function = metric(_name, unit="rate", chance=_fpr, private="low")(partial(tpr_at_fpr, fpr=_fpr))
    OF_TIES[_function] = partial(_tpr_of_ties, fpr=_fpr)


def resolution_note(trials: Trials, fpr: float) -> str | None:
    """The reason why these trials cannot resolve a false-positive rate; None if they can."""
    nonmated, needed = int((~trials.mated).sum()), _needed(fpr)
    if nonmated >= needed:
        return None
    return f"{nonmated} non-mated trials cannot resolve a false-positive rate of {fpr:g}: at least {needed} are needed"


def _needed(fpr: float) -> int:
    """Non-mated trials that resolve a false-positive rate."""
    return math.ceil(1 / fpr - _ROUNDING)


OMEGA = 1.0
"""Prior odds of mated to non-mated, as in the VoicePrivacy Challenge."""
MATED_PER_BIN, MAX_BINS = 10, 100


@metric_of_ties("d_sys", unit="share", chance=0.0, private="low")
def d_sys(ties: TieGroups) -> Float64:
    """Global linkability, in [0, 1]: 0 where mated and non-mated scores look alike, 1 where they do not overlap.

    Local linkability 2 w LR / (1 + w LR) - 1 where w LR > 1, else 0, averaged over the mated density. Densities are
    histograms of equal width with at most 100 bins and 10 mated scores a bin on average, as the challenge's are. It
    is biased upward in small samples (0.06 at 500 mated scores without any leak, measured): compare it with
    `d_sys_monotone`, and with the constant anchor, before reading much into small values.
    """
    lists, bins = np.arange(len(ties.starts)), np.clip(ties.all_mated // MATED_PER_BIN, 1, MAX_BINS).astype(np.int64)
    low, high = ties.scores[ties.place[ties.starts]], ties.scores[ties.place[ties.ends]]
    number = np.arange(bins.max() + 1)
    edges = number * ((high - low) / bins)[:, None] + low[:, None]  # [lists, edges], of which a list has bins + 1
    # Each bin but the last is without its upper end; cells of all lists are found by one search.
    place = np.where(number < bins[:, None], np.searchsorted(ties.scores, edges), len(ties.scores))
    cells = np.searchsorted(ties.list_of * len(ties.scores) + ties.place, lists[:, None] * len(ties.scores) + place)
    mated, nonmated = (
        np.diff(np.append(0.0, np.cumsum(counts))[cells], axis=1) / every[:, None]
        for counts, every in ((ties.mated, ties.all_mated), (ties.nonmated, ties.all_nonmated))
    )
    return np.where(low == high, 0.0, _linkability(mated, nonmated).sum(axis=1))


@metric_of_ties("d_sys_monotone", unit="share", chance=0.0, private="low")
def d_sys_monotone(ties: TieGroups) -> Float64:
    """The same with the likelihood ratio of the PAV fit, in [0, 1]: no bins, invariant to increasing maps.

    It supposes that a higher score never means less alike, and sees no leak in scores that are merely inverted.
    """
    blocks = ties.blocks
    mated, nonmated = (
        counts / every[blocks.list_of]
        for counts, every in ((blocks.mated, blocks.all_mated), (blocks.nonmated, blocks.all_nonmated))
    )
    return blocks.sums(_linkability(mated, nonmated))


def _linkability(mated: Float64, nonmated: Float64) -> Float64:
    """Local linkability of each cell times its share of the mated scores, from its shares of both classes."""
    # 2 w LR / (1 + w LR) - 1 = (w m - n) / (w m + n), which needs no division by an empty non-mated cell.
    total = OMEGA * mated + nonmated
    local = np.divide(OMEGA * mated - nonmated, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.maximum(local, 0) * mated)


NO_PRIVACY_BITS = float(1 / (2 * np.log(2)))
"""Expected disclosure of perfect evidence: the integral of the binary entropy over all priors, 0.721 bit."""
TAGS = ((1e-12, "0"), (1.0, "A"), (2.0, "B"), (4.0, "C"), (5.0, "D"), (6.0, "E"), (np.inf, "F"))
"""Upper limits of |log10 LR| and their tags, after the ENFSI scale of evidence (table 1 of the paper)."""


def zebra_tag(worst: float) -> str:
    """Category of a worst-case disclosure in |log10 LR|: `0` for none, then `A` (below 10:1) to `F` (from 10^6:1)."""
    return next(tag for limit, tag in TAGS if worst <= limit)


@metric_of_ties("zebra_expected", unit="bit", chance=0.0, private="low")
def zebra_expected(ties: TieGroups) -> Float64:
    """Expected privacy disclosure D_ECE of the population, in bits, in [0, 0.721].

    Empirical cross-entropy that the evidence takes away from an adversary who has no evidence, averaged over every
    prior belief in [0, 1], after the best monotone calibration.
    """
    blocks = ties.blocks
    remaining = _mean(blocks, prior_averaged_entropy(blocks.llr), blocks.mated)
    remaining += _mean(blocks, prior_averaged_entropy(-blocks.llr), blocks.nonmated)
    return np.asarray(np.maximum(0.0, NO_PRIVACY_BITS - remaining / np.log(2)))


@metric_of_ties("zebra_worst", unit="log10 LR", chance=0.0, private="low", tag=zebra_tag)
def zebra_worst(ties: TieGroups) -> Float64:
    """Worst-case disclosure for an individual: the largest |log10 LR| of any trial, at least 0.

    One mated and one non-mated trial are added beyond both ends (Laplace's rule of succession), so n trials resolve at
    most about log10 n; the prior odds are those of the real trials, as in the ZEBRA toolkit. Chance is 0 for constant
    scores and positive for random ones, because it is a maximum.
    """
    added = np.append(ties.starts, ties.ends + 1)
    starts = ties.starts + 2 * np.arange(len(ties.starts))
    padded = Counts(np.insert(ties.mated, added, 1.0), np.insert(ties.nonmated, added, 1.0), starts)
    fit = padded.fit()
    odds = (ties.all_mated / ties.all_nonmated) / (padded.all_mated / padded.all_nonmated)
    real = np.ones(len(padded.mated), bool)
    real[starts] = real[starts[1:] - 1] = real[-1] = False
    llr = fit.llr[fit.block[real]] - np.log(odds)[ties.list_of]
    # Of one score only, the added trials alone would make a constant look informative in an unbalanced list.
    return np.where(ties.starts == ties.ends, 0.0, np.maximum.reduceat(np.abs(llr), ties.starts) / np.log(10))


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
