"""Trials of one score counted together, of one list of trials or of many resamples at once; and their isotonic fit.

Lists lie end to end in flat arrays, so that a metric of two hundred resamples costs a few passes over memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moretta.shared.core.array_types import Bool, Float64, Int64, Integers

_APART = 2.0
"""Shares of mated trials lie in [0, 1]: shifted by this for each list, no fit joins cells of two lists."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Mated and non-mated trials in cells of ascending score, of lists that have some of both."""

    mated: Float64
    """[cells], as `nonmated`."""
    nonmated: Float64
    starts: Int64
    """[lists], the first cell of each list; cells of a list follow each other."""

    @cached_property
    def list_of(self) -> Int64:
        """int [cells], the list of each cell."""
        lengths = np.diff(self.starts, append=len(self.mated))
        return np.repeat(np.arange(len(self.starts)), lengths)

    @cached_property
    def all_mated(self) -> Float64:
        """[lists]."""
        return self.sums(self.mated)

    @cached_property
    def all_nonmated(self) -> Float64:
        """[lists]."""
        return self.sums(self.nonmated)

    def sums(self, values: Float64) -> Float64:
        """[cells] added up over each list, [lists]."""
        return np.add.reduceat(values, self.starts)

    def running(self, counts: Float64) -> Float64:
        """[cells], the sum of counts from the start of the list to each cell, exact as long as counts are whole."""
        total = np.cumsum(counts)
        return total - (total - counts)[self.starts][self.list_of]

    def fit(self) -> IsotonicFit:
        """Optimal calibration of scores to log-likelihood ratios (Bruemmer and du Preez, 2006, section 6).

        Isotonic regression of "mated" on the score; the prior odds of the trial list are taken out of the posterior.
        """
        from scipy.optimize import isotonic_regression

        total = self.mated + self.nonmated
        found = isotonic_regression(self.mated / total + _APART * self.list_of, weights=total)
        first = np.asarray(found.blocks[:-1], dtype=np.int64)
        # Counts, not the fitted means, so that pure blocks are exactly pure and the result is free of rounding.
        mated, nonmated = np.add.reduceat(self.mated, first), np.add.reduceat(self.nonmated, first)
        starts, block = np.searchsorted(first, self.starts), np.repeat(np.arange(len(first)), np.diff(found.blocks))
        odds = (self.all_mated / self.all_nonmated)[self.list_of[first]]
        with np.errstate(divide="ignore"):
            llr = np.log(mated) - np.log(nonmated) - np.log(odds)
        return IsotonicFit(mated, nonmated, starts, llr, block)


@dataclass(frozen=True, eq=False)
class IsotonicFit(Counts):
    """Blocks of the isotonic fit."""

    llr: Float64
    """Natural log-likelihood ratio of each block; it may be infinite at the ends."""
    block: Int64
    """int [cells], the block of each cell that was fitted."""


@dataclass(frozen=True, eq=False)
class TieGroups(Counts):
    """Trials of one score counted together."""

    scores: Float64
    """float64 [distinct scores of all lists], ascending."""
    place: Int64
    """int [cells], where in `scores` each cell's score is."""

    @cached_property
    def blocks(self) -> IsotonicFit:
        """The isotonic fit, made once for all metrics."""
        return self.fit()

    @cached_property
    def ends(self) -> Int64:
        """int [lists], the last cell of each list."""
        return np.append(self.starts[1:], len(self.place)) - 1


def tie_groups(scores: Float64, mated: Bool, list_of: Integers) -> TieGroups:
    """Group trials [n] of lists 0, 1 and so on; every list has some of both classes."""
    order = np.lexsort((scores, list_of))
    ordered, lists = scores[order], list_of[order]
    first = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]) | (lists[1:] != lists[:-1])))
    own, other = (np.add.reduceat(of[order].astype(np.float64), first) for of in (mated, ~mated))
    distinct, place = np.unique(ordered[first], return_inverse=True)
    starts = np.flatnonzero(np.append(True, np.diff(lists[first]) != 0))
    return TieGroups(own, other, starts, distinct, place)
