"""Every metric overall, by sex, per speaker and for the worst-off speaker, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from moretta.shared.audit.metrics.distinctiveness import Dominance, Similarity
from moretta.shared.audit.metrics.intervals import (
    Interval,
    bootstrap_rows,
    bootstrap_trials,
    bootstrap_within_speaker,
    percentile_interval,
    speaker_counts,
)
from moretta.shared.audit.metrics.metric import Metric, get_metric, metrics_of
from moretta.shared.audit.metrics.scores import Ranking, Trials

P = TypeVar("P")


@dataclass(frozen=True)
class Summary:
    """A value, None where the trials cannot give it, and its interval, None where there is none."""

    value: float | None
    interval: Interval | None = None
    speakers: tuple[int, ...] | None = None
    """Of a part: whose trials it is of. None for the whole."""


@dataclass(frozen=True)
class Measured:
    """One metric in all its breakdowns.

    Intervals of `overall` and `by_sex` resample speakers; that of `worst`, one speaker's, resamples its trials.
    `per_speaker` goes by the true speaker of the trial and lacks those who have no mated or no non-mated trials.
    """

    name: str
    chance: float
    overall: Summary
    by_sex: dict[str, Summary] = field(default_factory=dict)
    per_speaker: dict[int, float] = field(default_factory=dict)
    worst_speaker: int | None = None
    worst: Summary = Summary(None)


@dataclass(frozen=True)
class _Population(Generic[P]):
    """What a breakdown must know of one kind of scores; `P` is a part of them."""

    whole: P
    enrolled: int
    by_sex: Mapping[str, P | None]
    """None where the part has no trials."""
    by_speaker: Mapping[int, P]
    speakers: Callable[[P], Sequence[int]]
    value: Callable[[Metric, P], float | None]
    intervals: Callable[[P], Mapping[str, Interval | None]]
    within_speaker: Callable[[Metric, P], Interval | None]

    def measure(self, metrics: Sequence[Metric]) -> dict[str, Measured]:
        """Each metric in all its breakdowns, by name."""
        overall = self._summaries(metrics, self.whole, None)
        by_sex = {
            sex: self._summaries(metrics, part, tuple(map(int, self.speakers(part))))
            for sex, part in self.by_sex.items()
            if part is not None
        }
        found = {}
        for m in metrics:
            values = {s: value for s, part in self.by_speaker.items() if (value := self.value(m, part)) is not None}
            worst = m.worst(values)
            found[m.name] = Measured(
                name=m.name,
                chance=m.chance_among(self.enrolled),
                overall=overall[m.name],
                by_sex={sex: summaries[m.name] for sex, summaries in by_sex.items()},
                per_speaker=values,
                worst_speaker=worst,
                worst=Summary(None)
                if worst is None
                else Summary(values[worst], self.within_speaker(m, self.by_speaker[worst]), (worst,)),
            )
        return found

    def _summaries(self, metrics: Sequence[Metric], part: P, speakers: tuple[int, ...] | None) -> dict[str, Summary]:
        intervals = self.intervals(part)
        return {m.name: Summary(self.value(m, part), intervals[m.name], speakers) for m in metrics}


def measure_trials(
    trials: Trials,
    *,
    sex_of: Mapping[int, str] | None = None,
    metrics: Sequence[Metric] | None = None,
    llr: bool = False,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Measured]:
    """All metrics of verification trials, by name.

    Args:
        trials: the scored comparisons.
        sex_of: sex of each speaker, for the breakdown by sex; comparisons are within one sex.
        metrics: default all of kind `trials`.
        llr: scores are calibrated natural log-likelihood ratios; without it, metrics that need them are left out.
        resamples: of each bootstrap; 0 leaves intervals out.
        seed: of the bootstraps.
    """
    chosen = [m for m in (metrics_of("trials") if metrics is None else metrics) if llr or not m.needs_llr]

    def within(m: Metric, part: Trials) -> Interval | None:
        return bootstrap_within_speaker({m.name: m.function}, part, resamples=resamples, seed=seed)[m.name]

    return _Population(
        whole=trials,
        enrolled=len(np.unique(trials.enrol_speaker)),
        by_sex={sex: trials.of_sex(sex_of or {}, sex) for sex in _sexes(sex_of)},
        by_speaker={
            int(s): part for s in np.unique(trials.trial_speaker) if (part := trials.of_speaker(s)) is not None
        },
        speakers=lambda part: part.speakers.tolist(),
        value=lambda m, part: m.function(part),
        intervals=lambda part: bootstrap_trials(
            {m.name: m.function for m in chosen}, part, resamples=resamples, seed=seed
        ),
        within_speaker=within,
    ).measure(chosen)


def measure_ranking(
    ranking: Ranking,
    *,
    sex_of: Mapping[int, str] | None = None,
    metrics: Sequence[Metric] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Measured]:
    """All metrics of identification, by name; arguments as of `measure_trials`.

    The gallery stays whole in every breakdown and resample: a gallery of copies would make ties that do not occur.
    """
    chosen = metrics_of("ranking") if metrics is None else metrics

    def interval(m: Metric, part: Ranking, units: np.ndarray) -> Interval | None:
        return bootstrap_rows(lambda rows: m.function(part.rows(rows)), units, resamples=resamples, seed=seed)

    sex = np.array([(sex_of or {}).get(int(s), "") for s in ranking.speaker])
    return _Population(
        whole=ranking,
        enrolled=len(ranking.gallery),
        by_sex={name: ranking.rows(sex == name) if (sex == name).any() else None for name in _sexes(sex_of)},
        by_speaker={int(s): ranking.rows(ranking.speaker == s) for s in np.unique(ranking.speaker)},
        speakers=lambda part: np.unique(part.speaker).tolist(),
        value=lambda m, part: m.function(part),
        intervals=lambda part: {m.name: interval(m, part, part.speaker) for m in chosen},
        # Every clip is its own unit: within one speaker there is nothing else to resample.
        within_speaker=lambda m, part: interval(m, part, np.arange(len(part))),
    ).measure(chosen)


def measure_similarity(
    similarity: Similarity,
    name: str,
    *,
    sex_of: Mapping[int, str] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Measured:
    """One metric of voice similarity matrices; other arguments as of `measure_trials`. The worst has no interval."""
    m = get_metric(name)

    def value(metric: Metric, part: Similarity | Dominance | None) -> float | None:
        dominance = part.dominance() if isinstance(part, Similarity) else part
        return None if dominance is None else metric.function(dominance)

    def interval(part: Similarity | Dominance) -> Interval | None:
        if not isinstance(part, Similarity):
            return None
        drawn = (value(m, part.dominance(counts)) for counts in speaker_counts(len(part.speakers), resamples, seed))
        return percentile_interval([v for v in drawn if v is not None], resamples)

    sex = np.array([(sex_of or {}).get(int(n), "") for n in similarity.speakers])
    by_sex = {name: similarity.of(sex == name) for name in _sexes(sex_of)}
    population: _Population[Similarity | Dominance] = _Population(
        whole=similarity,
        enrolled=len(similarity.speakers),
        by_sex={sex: part for sex, part in by_sex.items() if len(part.speakers) > 1},
        by_speaker={int(n): similarity.of_speaker(i) for i, n in enumerate(similarity.speakers)},
        speakers=lambda part: part.speakers.tolist() if isinstance(part, Similarity) else (),
        value=value,
        intervals=lambda part: {m.name: interval(part)},
        within_speaker=lambda _, __: None,
    )
    return population.measure([m])[name]


def _sexes(sex_of: Mapping[int, str] | None) -> list[str]:
    return sorted(set(sex_of.values())) if sex_of else []
