"""Intervals: the percentile bootstrap over speakers, and exact intervals of shares.

Clips of one speaker are not independent, so whole speakers are drawn with replacement (Field and Welsh, "Bootstrapping
clustered data", J. R. Stat. Soc. B 69, 2007): an interval over clips would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from moretta.shared.audit.metrics.scores import OF_TIES, Middle, Trials
from moretta.shared.core.array_types import Float64, Int64, Integers

LEVEL = 0.95
"""Share of the resamples inside an interval."""
MAX_LOST_SHARE = 0.5
"""An interval from fewer than half of its resamples would describe the lucky ones."""
MIN_SPEAKERS = 6
"""Speakers whose interval a verdict may rest on. The range of n independent values covers the median of what they come
from with probability 1 - 2^(1 - n): for fewer than six that is below `LEVEL`, even between the two extremes."""
MIN_RESAMPLES = 50
"""Resamples whose interval a conclusion may rest on: of fewer than 40, not even one lies in either tail of 2.5 %."""
_MOST_AT_ONCE = 200_000
"""Trials of all resamples that are drawn together: what is made of them should stay in the processor's cache."""


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def bootstrap_trials(
    metrics: Mapping[str, Callable[[Trials], float | None]],
    trials: Trials,
    *,
    resamples: int = 200,
    seed: int = 0,
    within_speaker: bool = False,
) -> dict[str, Interval | None]:
    """Intervals of several metrics from the same resamples. None where at least half lack a class or give None.

    Speakers are drawn with replacement, and a draw counts on both sides: a speaker drawn c times keeps each of its
    mated trials c times, and speakers drawn c and d times keep each non-mated trial between them c * d times. Pairs of
    two copies of one speaker are left out: they would be mated scores under a non-mated label.

    `within_speaker` is for the trials of one speaker: mated and non-mated trials are drawn separately, with
    replacement. Such an interval speaks of this speaker with other clips, not of other speakers.
    """
    trials, rows = trials.sorted(), np.arange(len(trials))
    values: dict[str, list[float | None]] = {name: [] for name in metrics}
    for weights in _weights(trials, resamples, seed, within_speaker=within_speaker):
        ties = trials.drawn(weights)
        for name, function in metrics.items():
            if (at_once := OF_TIES.get(function)) is not None:
                found = np.empty(0) if ties is None else at_once(ties)
                values[name] += found[~np.isnan(found)].tolist()
            else:
                parts = (trials.subset(np.repeat(rows, own)) for own in weights)
                values[name] += [None if part is None else function(part) for part in parts]
    return {name: percentile_interval(found, resamples) for name, found in values.items()}


def _weights(trials: Trials, resamples: int, seed: int, *, within_speaker: bool) -> Iterator[Int64]:
    """How often each trial is drawn, int [some resamples, n], for all resamples in turn."""
    if within_speaker:
        mated = np.flatnonzero(trials.mated)
        weights = np.zeros((resamples, len(trials)), np.int64)
        draws = _draws_of_two(len(mated), len(trials) - len(mated), resamples, seed)
        weights[:, mated], weights[:, ~trials.mated] = draws
        yield weights
        return
    speakers = trials.speakers
    enrol, trial = (np.searchsorted(speakers, side) for side in (trials.enrol_speaker, trials.trial_speaker))
    counts = speaker_counts(len(speakers), resamples, seed)
    other = np.where(trials.mated, len(speakers), trial)  # a mated trial counts as often as its speaker is drawn
    counts = np.hstack([counts, np.ones((resamples, 1), np.int64)])
    at_once = max(1, _MOST_AT_ONCE // len(trials))
    for start in range(0, resamples, at_once):
        some = counts[start : start + at_once]
        yield some.take(enrol, axis=1) * some.take(other, axis=1)


@lru_cache(maxsize=64)
def _draws_of_two(mated: int, nonmated: int, resamples: int, seed: int) -> tuple[Int64, Int64]:
    """How often each of so many trials of either class is drawn, int [resamples, mated] and [resamples, nonmated]."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, mated), np.int64), np.zeros((resamples, nonmated), np.int64)
    for draw in range(resamples):
        for own in counts:
            own[draw] = np.bincount(rng.choice(own.shape[1], own.shape[1]), minlength=own.shape[1])
    return counts


def bootstrap_rows(
    statistic: Callable[[Int64], float | None], speaker: Integers, *, resamples: int = 200, seed: int = 0
) -> Interval | None:
    """Interval of a statistic of rows (trials of an identification, clips of a classifier), resampling their speakers.

    `statistic` maps the indices of the drawn rows, repeats included, to a value or None; `speaker` [n] is that of each
    row. None for fewer than two speakers, of whom every resample is the same.
    """
    rows = np.arange(len(speaker))
    return percentile_interval(
        (statistic(np.repeat(rows, own)) for own in _row_counts(speaker, resamples, seed)), resamples
    )


def bootstrap_values(
    values: Float64, speaker: Integers, *, middle: Middle = "mean", resamples: int = 200, seed: int = 0
) -> Interval | None:
    """Interval of the mean, or the median, of a value of each row [n]: as `bootstrap_rows` of it, but at once."""
    order = np.argsort(values, kind="stable")
    ordered, counts = values[order], _row_counts(speaker[order], resamples, seed)
    if not len(counts):
        return None
    if middle == "mean":
        return percentile_interval((counts @ ordered / counts.sum(axis=1)).tolist(), resamples)
    running = np.cumsum(counts, axis=1)
    drawn = running[:, -1:]
    below, above = ((running <= place).sum(axis=1) for place in ((drawn - 1) // 2, drawn // 2))
    return percentile_interval(((ordered[below] + ordered[above]) / 2).tolist(), resamples)


def _row_counts(speaker: Integers, resamples: int, seed: int) -> Int64:
    """How often each row is drawn, int [resamples, n]; no resample of fewer than two speakers."""
    speakers, of_row = np.unique(speaker, return_inverse=True)
    return speaker_counts(len(speakers), resamples if len(speakers) > 1 else 0, seed)[:, of_row]


@lru_cache(maxsize=64)
def speaker_counts(speakers: int, resamples: int, seed: int) -> Int64:
    """How often each speaker is drawn in each resample, int [resamples, speakers]; not to be written to."""
    share = np.full(speakers, 1 / speakers)
    counts = np.random.default_rng(seed).multinomial(speakers, share, size=resamples).astype(np.int64)
    counts.flags.writeable = False
    return counts


def percentile_interval(values: Iterable[float | None], resamples: int) -> Interval | None:
    """The percentile interval of what the resamples gave; None where too few gave anything."""
    found = [value for value in values if value is not None]
    if not found or len(found) <= MAX_LOST_SHARE * resamples:
        return None
    low, high = np.quantile(np.asarray(found, np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def exact_interval(successes: int, trials: int) -> Interval:
    """Clopper and Pearson's interval of a share of independent trials (Biometrika, 1934).

    It covers at least at its level, for every true share.
    """
    from scipy.stats import beta

    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - LEVEL) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(low, high)
