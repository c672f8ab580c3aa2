"""Every metric overall, by sex, per speaker and for the worst-off speaker, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moretta.shared.audit.metrics.bootstrap import (
    Interval,
    bootstrap_rows,
    bootstrap_trials,
    bootstrap_within_speaker,
    percentile_interval,
    speaker_counts,
)
from moretta.shared.audit.metrics.distinctiveness import Dominance, Similarity
from moretta.shared.audit.metrics.metric_registry import Metric, get_metric, metrics_of
from moretta.shared.audit.metrics.ranking import Ranking
from moretta.shared.audit.metrics.trials import Ints, Trials


@dataclass(frozen=True)
class Summary:
    """A value, None where the trials cannot give it, and its interval, None where it was not asked for or possible."""

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
    unit: str
    chance: float
    private: str
    overall: Summary
    by_sex: dict[str, Summary] = field(default_factory=dict)
    per_speaker: dict[int, float] = field(default_factory=dict)
    worst_speaker: int | None = None
    worst: Summary = Summary(None)


def measure_trials(
    trials: Trials,
    *,
    sex_of: Mapping[int, str] | None = None,
    metrics: Sequence[Metric] | None = None,
    llr: bool = False,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Measured]:
    """All metrics of verification trials, by name.

    Args:
        trials: the scored comparisons.
        sex_of: sex of each speaker, for the breakdown by sex; comparisons are within one sex.
        metrics: which; default all of kind `trials`.
        llr: scores are calibrated natural log-likelihood ratios; without it, metrics that need them are left out.
        resamples: of each bootstrap; 0 leaves intervals out.
        level: of the intervals.
        seed: of the bootstraps.
    """
    chosen = [m for m in (metrics_of("trials") if metrics is None else metrics) if llr or not m.needs_llr]
    functions = {m.name: m.function for m in chosen}

    def summarise(part: Trials | None, *, whole: bool = False) -> dict[str, Summary]:
        if part is None:
            return {name: Summary(None) for name in functions}
        speakers = None if whole else tuple(int(s) for s in part.speakers)
        intervals = bootstrap_trials(functions, part, resamples=resamples, level=level, seed=seed)
        return {name: Summary(function(part), intervals[name], speakers) for name, function in functions.items()}

    sexes = sorted(set(sex_of.values())) if sex_of else []
    by_sex = {sex: summarise(trials.of_sex(sex_of or {}, sex)) for sex in sexes}
    parts = {int(s): part for s in np.unique(trials.trial_speaker) if (part := trials.of_speaker(s)) is not None}
    overall = summarise(trials, whole=True)

    def worst_interval(m: Metric, speaker: int) -> Interval | None:
        one = {m.name: m.function}
        return bootstrap_within_speaker(one, parts[speaker], resamples=resamples, level=level, seed=seed)[m.name]

    return {
        m.name: _measured(
            m,
            speakers=len(np.unique(trials.enrol_speaker)),
            overall=overall[m.name],
            by_sex={sex: by_sex[sex][m.name] for sex in sexes},
            per_speaker={s: value for s, part in parts.items() if (value := m.function(part)) is not None},
            worst_interval=worst_interval,
        )
        for m in chosen
    }


def measure_ranking(
    ranking: Ranking,
    *,
    sex_of: Mapping[int, str] | None = None,
    metrics: Sequence[Metric] | None = None,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Measured]:
    """All metrics of identification, by name; arguments as of `measure_trials`.

    The gallery stays whole in every breakdown and resample: a gallery of copies would make ties that nobody meets.
    """
    chosen = metrics_of("ranking") if metrics is None else metrics
    sexes = sorted(set(sex_of.values())) if sex_of else []

    def summarise(m: Metric, part: Ranking, *, whole: bool = False) -> Summary:
        if not len(part):
            return Summary(None)

        def statistic(rows: Ints) -> float | None:
            return m.function(part.rows(rows))

        speakers = None if whole else tuple(int(s) for s in np.unique(part.speaker))
        interval = bootstrap_rows(statistic, part.speaker, resamples=resamples, level=level, seed=seed)
        return Summary(m.function(part), interval, speakers)

    def of_sex(sex: str) -> Ints:
        return np.flatnonzero([(sex_of or {}).get(int(s)) == sex for s in ranking.speaker])

    parts = {int(s): ranking.rows(ranking.speaker == s) for s in np.unique(ranking.speaker)}

    def worst_interval(m: Metric, speaker: int) -> Interval | None:
        part = parts[speaker]
        # Every clip its own unit: within one speaker there is nothing else to resample.
        clips = np.arange(len(part))
        return bootstrap_rows(
            lambda rows: m.function(part.rows(rows)), clips, resamples=resamples, level=level, seed=seed
        )

    return {
        m.name: _measured(
            m,
            speakers=len(ranking.gallery),
            overall=summarise(m, ranking, whole=True),
            by_sex={
                sex: summarise(m, ranking.rows(rows)) if len(rows := of_sex(sex)) else Summary(None) for sex in sexes
            },
            per_speaker={s: value for s, part in parts.items() if (value := m.function(part)) is not None},
            worst_interval=worst_interval,
        )
        for m in chosen
    }


def measure_similarity(
    similarity: Similarity,
    name: str,
    *,
    sex_of: Mapping[int, str] | None = None,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Measured:
    """One metric of voice similarity matrices; other arguments as of `measure_trials`. The worst has no interval."""
    m = get_metric(name)

    def value(dominance: Dominance | None) -> float | None:
        return None if dominance is None else m.function(dominance)

    def summarise(part: Similarity, *, whole: bool = False) -> Summary:
        speakers = None if whole else tuple(int(n) for n in part.speakers)
        drawn = (part.dominance(counts) for counts in speaker_counts(len(part.speakers), resamples, seed))
        found = [v for v in map(value, drawn) if v is not None]
        return Summary(value(part.dominance()), percentile_interval(found, resamples, level), speakers)

    sexes = sorted(set(sex_of.values())) if sex_of else []
    of_sex = {s: similarity.of(np.array([(sex_of or {}).get(int(n)) == s for n in similarity.speakers])) for s in sexes}
    per_speaker = {
        int(n): v for i, n in enumerate(similarity.speakers) if (v := value(similarity.of_speaker(i))) is not None
    }
    return _measured(
        m,
        speakers=len(similarity.speakers),
        overall=summarise(similarity, whole=True),
        by_sex={sex: summarise(part) for sex, part in of_sex.items() if len(part.speakers) > 1},
        per_speaker=per_speaker,
        worst_interval=lambda _, __: None,
    )


def _measured(
    m: Metric,
    *,
    speakers: int,
    overall: Summary,
    by_sex: dict[str, Summary],
    per_speaker: dict[int, float],
    worst_interval: Callable[[Metric, int], Interval | None],
) -> Measured:
    worst = m.worst(per_speaker)
    return Measured(
        name=m.name,
        unit=m.unit,
        chance=m.chance_among(speakers),
        private=m.private,
        overall=overall,
        by_sex=by_sex,
        per_speaker=per_speaker,
        worst_speaker=worst,
        worst=Summary(None) if worst is None else Summary(per_speaker[worst], worst_interval(m, worst), (worst,)),
    )
