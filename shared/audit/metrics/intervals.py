"""Intervals: the percentile bootstrap over speakers, and exact intervals of shares.

Clips of one speaker are not independent, so whole speakers are drawn with replacement (Field and Welsh, "Bootstrapping
clustered data", J. R. Stat. Soc. B 69, 2007): an interval over clips would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.core.array_types import Int64, Integers

LEVEL = 0.95
"""Share of the resamples inside an interval."""
MAX_LOST_SHARE = 0.5
"""An interval from fewer than half of its resamples would describe the lucky ones."""


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
    trials = trials.sorted()
    speakers, rows = trials.speakers, np.arange(len(trials))
    enrol, trial = (np.searchsorted(speakers, side) for side in (trials.enrol_speaker, trials.trial_speaker))

    def drawn() -> Iterator[Int64]:
        if within_speaker:
            rng, classes = np.random.default_rng(seed), (rows[trials.mated], rows[~trials.mated])
            for _ in range(resamples):
                yield np.sort(np.concatenate([rng.choice(own, len(own)) for own in classes]))
        else:
            for counts in speaker_counts(len(speakers), resamples, seed):
                yield np.repeat(rows, np.where(trials.mated, counts[enrol], counts[enrol] * counts[trial]))

    values: dict[str, list[float | None]] = {name: [] for name in metrics}
    for chosen in drawn():
        part = trials.subset(chosen)
        for name, function in metrics.items():
            values[name].append(None if part is None else function(part))
    return {name: percentile_interval(found, resamples) for name, found in values.items()}


def bootstrap_rows(
    statistic: Callable[[Int64], float | None], speaker: Integers, *, resamples: int = 200, seed: int = 0
) -> Interval | None:
    """Interval of a statistic of rows (trials of an identification, clips of a classifier), resampling their speakers.

    `statistic` maps the indices of the drawn rows, repeats included, to a value or None; `speaker` [n] is that of each
    row. None for fewer than two speakers, of whom every resample is the same.
    """
    speakers, of_row = np.unique(speaker, return_inverse=True)
    if len(speakers) < 2:
        return None
    rows = np.arange(len(of_row))
    drawn = speaker_counts(len(speakers), resamples, seed)
    return percentile_interval((statistic(np.repeat(rows, counts[of_row])) for counts in drawn), resamples)


def speaker_counts(speakers: int, resamples: int, seed: int) -> Int64:
    """How often each speaker is drawn in each resample, int [resamples, speakers]."""
    share = np.full(speakers, 1 / speakers)
    return np.random.default_rng(seed).multinomial(speakers, share, size=resamples).astype(np.int64)


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
