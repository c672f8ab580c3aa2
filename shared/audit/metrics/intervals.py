"""Intervals: the percentile bootstrap over speakers, and exact intervals of shares.

Clips of one speaker are not independent, so whole speakers are drawn with replacement (Field and Welsh, "Bootstrapping
clustered data", J. R. Stat. Soc. B 69, 2007): an interval over clips would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.core.array_types import Float64, Int64, Integers

TrialsFunction = Callable[[Trials], float | None]
LEVEL = 0.95
"""Share of the resamples inside an interval."""
MAX_LOST_SHARE = 0.5
"""An interval from fewer than half of its resamples would describe the lucky ones."""


@dataclass(frozen=True)
class Interval:
    """An interval, and the resamples it comes from: those that could be evaluated, 0 for an exact interval."""

    low: float
    high: float
    level: float
    resamples: int


def bootstrap_trials(
    metrics: Mapping[str, TrialsFunction], trials: Trials, *, resamples: int = 200, seed: int = 0
) -> dict[str, Interval | None]:
    """Intervals of several metrics from the same speaker-level resamples.

    Speakers are drawn with replacement, and a draw counts on both sides: a speaker drawn c times keeps each of its
    mated trials c times, and speakers drawn c and d times keep each non-mated trial between them c * d times. Pairs of
    two copies of one speaker are left out: they would be mated scores under a non-mated label. None where at least
    half of the resamples lack a class or give None.
    """
    trials = trials.sorted()
    speakers = trials.speakers
    enrol, trial = np.searchsorted(speakers, trials.enrol_speaker), np.searchsorted(speakers, trials.trial_speaker)
    rows = np.arange(len(trials))
    drawn = (
        trials.subset(np.repeat(rows, np.where(trials.mated, counts[enrol], counts[enrol] * counts[trial])))
        for counts in speaker_counts(len(speakers), resamples, seed)
    )
    return _intervals(metrics, drawn, resamples)


def bootstrap_within_speaker(
    metrics: Mapping[str, TrialsFunction], trials: Trials, *, resamples: int = 200, seed: int = 0
) -> dict[str, Interval | None]:
    """Intervals for one speaker's trials: mated and non-mated trials are drawn separately, with replacement.

    It speaks of this speaker with other clips, not of other speakers.
    """
    trials = trials.sorted()
    rng = np.random.default_rng(seed)
    mated, nonmated = np.flatnonzero(trials.mated), np.flatnonzero(~trials.mated)

    def drawn() -> Iterator[Trials | None]:
        for _ in range(resamples):
            rows = np.concatenate([rng.choice(mated, len(mated)), rng.choice(nonmated, len(nonmated))])
            yield trials.subset(np.sort(rows))

    return _intervals(metrics, drawn(), resamples)


def bootstrap_rows(
    statistic: Callable[[Int64], float | None],
    speaker: Integers,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> Interval | None:
    """Interval of a statistic of rows (trials of an identification, clips of a classifier), resampling their speakers.

    None for fewer than two speakers, of whom every resample is the same.

    Args:
        statistic: maps the int indices of the drawn rows, repeats included, to a value or None.
        speaker: int [n], the speaker of each row.
        resamples: how many.
        seed: of the draws.
    """
    speakers, of_row = np.unique(speaker, return_inverse=True)
    if len(speakers) < 2:
        return None
    rows = np.arange(len(of_row))
    found = (statistic(np.repeat(rows, counts[of_row])) for counts in speaker_counts(len(speakers), resamples, seed))
    return percentile_interval([value for value in found if value is not None], resamples)


def speaker_counts(speakers: int, resamples: int, seed: int) -> Int64:
    """How often each speaker is drawn in each resample, int [resamples, speakers]."""
    share = np.full(speakers, 1 / speakers)
    return np.random.default_rng(seed).multinomial(speakers, share, size=resamples).astype(np.int64)


def percentile_interval(values: list[float], resamples: int, level: float = LEVEL) -> Interval | None:
    """The percentile interval of what the resamples gave; None where too few gave anything."""
    if not values or len(values) <= MAX_LOST_SHARE * resamples:
        return None
    found: Float64 = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, len(found))


def exact_interval(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    """Clopper and Pearson's interval of a share of independent trials (Biometrika, 1934).

    It covers at least at its level, for every true share.
    """
    from scipy.stats import beta

    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(low, high, level, resamples=0)


def _intervals(
    metrics: Mapping[str, TrialsFunction], drawn: Iterator[Trials | None], resamples: int
) -> dict[str, Interval | None]:
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for trials in drawn:
        for name, function in metrics.items() if trials is not None else ():
            value = function(trials)  # type: ignore[arg-type]
            if value is not None:
                values[name].append(value)
    return {name: percentile_interval(found, resamples) for name, found in values.items()}
