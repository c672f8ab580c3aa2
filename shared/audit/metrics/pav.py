"""Pool-adjacent-violators: the best monotone calibration of scores, which judges an attacker by its ordering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.metrics.trials import Floats, Ints, TieGroups


@dataclass(frozen=True)
class Pav:
    """Blocks of the isotonic fit, by ascending score.

    `mated`, `nonmated`: counts, float64 [blocks]; `llr`: natural log-likelihood ratio of each block, which may be
    infinite at the ends; `block`: int [groups], the block of each tie group.
    """

    mated: Floats
    nonmated: Floats
    llr: Floats
    block: Ints


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
    block = np.repeat(np.arange(len(starts)), np.diff(fit.blocks))
    return Pav(mated, nonmated, llr, block)


def pav_laplace(ties: TieGroups) -> Pav:
    """The same with one mated and one non-mated trial added beyond both ends (Laplace's rule of succession).

    Every log-likelihood ratio is then finite: a list of n trials cannot give evidence beyond about log n. The prior
    odds are those of the real trials, as in the ZEBRA toolkit, so that figures compare.
    """
    one, end = np.ones(1), np.inf * np.ones(1)
    padded = TieGroups(
        np.concatenate([-end, ties.scores, end]),
        np.concatenate([one, ties.mated, one]),
        np.concatenate([one, ties.nonmated, one]),
    )
    fit = pav(padded)
    padded_odds, odds = padded.mated.sum() / padded.nonmated.sum(), ties.mated.sum() / ties.nonmated.sum()
    return Pav(fit.mated, fit.nonmated, fit.llr + np.log(padded_odds / odds), fit.block[1:-1])
