"""Percentile bootstrap at the level of speakers: clips of one speaker are no independent witnesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.trials import Floats, Ints, Trials

TrialsFunction = Callable[[Trials], float | None]
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
    metrics: Mapping[str, TrialsFunction], trials: Trials, *, resamples: int = 200, level: float = 0.95, seed: int = 0
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
    values: dict[str, list[float]] = {name: [] for name in metrics}
    rows = np.arange(len(trials))
    for counts in speaker_counts(len(speakers), resamples, seed):
        weight = np.where(trials.mated, counts[enrol], counts[enrol] * counts[trial])
        _collect(values, metrics, trials.subset(np.repeat(rows, weight)))
    return {name: percentile_interval(found, resamples, level) for name, found in values.items()}


def bootstrap_within_speaker(
    metrics: Mapping[str, TrialsFunction], trials: Trials, *, resamples: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, Interval | None]:
    """Intervals for one speaker's trials: mated and non-mated trials are drawn separately, with replacement.

    It speaks of this speaker with other clips, not of other speakers.
    """
    trials = trials.sorted()
    rng = np.random.default_rng(seed)
    mated, nonmated = np.flatnonzero(trials.mated), np.flatnonzero(~trials.mated)
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(mated, len(mated)), rng.choice(nonmated, len(nonmated))])
        _collect(values, metrics, trials.subset(np.sort(drawn)))
    return {name: percentile_interval(found, resamples, level) for name, found in values.items()}


def bootstrap_rows(
    statistic: Callable[[Ints], float | None],
    speaker: npt.NDArray[np.integer],
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of a statistic of rows (trials of an identification, clips of a classifier), resampling their speakers.

    None for fewer than two speakers, of whom every resample is the same.

    Args:
        statistic: maps the int indices of the drawn rows, repeats included, to a value or None.
        speaker: int [n], the speaker of each row.
    """
    speakers, of_row = np.unique(speaker, return_inverse=True)
    if len(speakers) < 2:
        return None
    rows = np.arange(len(of_row))
    found = [
        value
        for counts in speaker_counts(len(speakers), resamples, seed)
        if (value := statistic(np.repeat(rows, counts[of_row]))) is not None
    ]
    return percentile_interval(found, resamples, level)


def speaker_counts(speakers: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each speaker is drawn in each resample, int [speakers]."""
    rng = np.random.default_rng(seed)
    share = np.full(speakers, 1 / speakers)
    for _ in range(resamples):
        yield rng.multinomial(speakers, share).astype(np.int64)


def percentile_interval(values: list[float], resamples: int, level: float) -> Interval | None:
    """The percentile interval of what the resamples gave; None where too few gave anything."""
    if not values or len(values) <= MAX_LOST_SHARE * resamples:
        return None
    found: Floats = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, len(found))


def _collect(values: dict[str, list[float]], metrics: Mapping[str, TrialsFunction], drawn: Trials | None) -> None:
    if drawn is None:
        return
    for name, function in metrics.items():
        value = function(drawn)
        if value is not None:
            values[name].append(value)
