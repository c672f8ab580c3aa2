"""From scores to results: every metric overall, by sex, per speaker and for the worst-off speaker, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from moretta.shared.audit.attackers.base import Attacker
from moretta.shared.audit.metrics import (
    Interval,
    Metric,
    Ranking,
    Similarity,
    Trials,
    bootstrap_rows,
    bootstrap_trials,
    get_metric,
    metrics_of,
)
from moretta.shared.audit.metrics.distinctiveness import Dominance
from moretta.shared.audit.metrics.identification import pool
from moretta.shared.audit.metrics.intervals import bootstrap_within_speaker, percentile_interval, speaker_counts
from moretta.shared.audit.result import Result
from moretta.shared.audit.scoring import calibrated, claims

P = TypeVar("P")
POOLED = (3, 10, 30)
POOLED_SETS = 20
"""Pooled sets of each speaker that are scored."""
PER_SPEAKER = ("top1", "eer")
"""Metrics of which every speaker has a result; of the others the whole's result holds every speaker's figure."""
NO_VALUE = "too few trials to resolve it"


def blank(attacker: type[Attacker], scenario: str, *, speakers: int, clips: int) -> Result:
    """A result of this attacker in this scenario, without metric and figure."""
    about = {"modality": attacker.modality, "attacker": attacker.name, "kind": attacker.kind}
    return Result.model_validate({**about, "scenario": scenario, "metric": "", "speakers": speakers, "clips": clips})


def failed(about: Result, reason: str) -> list[Result]:
    """Results that say why there are no figures."""
    chances = {"top1": 1 / max(1, about.speakers), "eer": 0.5}
    return [about.invalidated(reason, metric=metric, chance=chance) for metric, chance in chances.items()]


@dataclass(frozen=True)
class _Population(Generic[P]):
    """The scores of one kind, their parts, and how a part is measured."""

    whole: P
    enrolled: int
    by_sex: Mapping[str, P | None]
    """None where there are no trials."""
    by_speaker: Mapping[int, P]
    """By the true speaker of the trial; without those who have no mated or no non-mated trials."""
    speakers: Callable[[P], Sequence[int]]
    value: Callable[[Metric, P], float | None]
    intervals: Callable[[P], Mapping[str, Interval | None]]
    """Resamples speakers."""
    within_speaker: Callable[[Metric, P], Interval | None]
    """Resamples the trials of one speaker."""


@dataclass(frozen=True)
class Measurement:
    """The speakers of an audit, by number, since metrics know no names; and how intervals are drawn."""

    names: tuple[str, ...]
    """Pseudonyms by number."""
    sex_of: Mapping[int, str]
    half_of: Mapping[int, int]
    clips_of: Mapping[int, int]
    """Trial clips."""
    resamples: int = 200
    """Of each interval; 0 leaves intervals out."""
    seed: int = 0

    def of_ranking(self, about: Result, ranking: Ranking) -> list[Result]:
        """Results of an identification, single clips and pooled ones."""
        results = list(self._of_ranking(about, ranking, metrics_of("ranking")))
        for length in POOLED:
            results += self._pooled(about.model_copy(update={"pooled": length}), ranking)
        return results

    def of_trials(self, about: Result, trials: Trials) -> list[Result]:
        """Results of a verification. Actual Cllr needs scores that mean something: it is measured calibrated."""
        plain = [m for m in metrics_of("trials") if not m.needs_llr]
        results = list(self._of_trials(about, trials, plain))
        ratios = calibrated(trials, self.half_of)
        if ratios is not None:
            results += self._of_trials(about, ratios, [m for m in metrics_of("trials") if m.needs_llr])
        return results

    def of_similarity(self, about: Result, name: str, similarity: Similarity) -> list[Result]:
        """Results of a metric that compares how distinct voices are before and after. The worst has no interval."""
        m = get_metric(name)

        def value(metric: Metric, part: Similarity | Dominance | None) -> float | None:
            dominance = part.dominance() if isinstance(part, Similarity) else part
            return None if dominance is None else metric.function(dominance)

        def interval(part: Similarity | Dominance) -> Interval | None:
            if not isinstance(part, Similarity):
                return None
            counts = speaker_counts(len(part.speakers), self.resamples, self.seed)
            drawn = (value(m, part.dominance(count)) for count in counts)
            return percentile_interval([v for v in drawn if v is not None], self.resamples)

        sex = self._sex(similarity.speakers)
        by_sex = {name: similarity.of(sex == name) for name in self._sexes}
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
        return list(self._results(about, [m], population))

    def _of_ranking(self, about: Result, ranking: Ranking, metrics: Sequence[Metric]) -> Iterator[Result]:
        """The gallery stays whole in every part and resample: a gallery of copies would make ties that do not occur."""

        def interval(m: Metric, part: Ranking, units: np.ndarray) -> Interval | None:
            return bootstrap_rows(lambda rows: m.function(part.rows(rows)), units, **self._draws)

        sex = self._sex(ranking.speaker)
        population = _Population(
            whole=ranking,
            enrolled=len(ranking.gallery),
            by_sex={name: ranking.rows(sex == name) if (sex == name).any() else None for name in self._sexes},
            by_speaker={int(s): ranking.rows(ranking.speaker == s) for s in np.unique(ranking.speaker)},
            speakers=lambda part: np.unique(part.speaker).tolist(),
            value=lambda m, part: m.function(part),
            intervals=lambda part: {m.name: interval(m, part, part.speaker) for m in metrics},
            # Every clip is its own unit: within one speaker there is nothing else to resample.
            within_speaker=lambda m, part: interval(m, part, np.arange(len(part))),
        )
        return self._results(about, metrics, population)

    def _of_trials(self, about: Result, trials: Trials, metrics: Sequence[Metric]) -> Iterator[Result]:
        """Comparisons by sex are within one sex."""
        own = {int(s): trials.of_speaker(s) for s in np.unique(trials.trial_speaker)}
        functions = {m.name: m.function for m in metrics}

        def within(m: Metric, part: Trials) -> Interval | None:
            return bootstrap_within_speaker({m.name: m.function}, part, **self._draws)[m.name]

        population = _Population(
            whole=trials,
            enrolled=len(np.unique(trials.enrol_speaker)),
            by_sex={sex: trials.of_sex(self.sex_of, sex) for sex in self._sexes},
            by_speaker={speaker: part for speaker, part in own.items() if part is not None},
            speakers=lambda part: part.speakers.tolist(),
            value=lambda m, part: m.function(part),
            intervals=lambda part: bootstrap_trials(functions, part, **self._draws),
            within_speaker=within,
        )
        return self._results(about, metrics, population)

    def _pooled(self, about: Result, ranking: Ranking) -> list[Result]:
        length = about.pooled
        pooled = pool(ranking, length, seed=self.seed)
        if pooled is None:
            most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
            reason = f"no speaker has {length} trial clips, the most is {most}"
            return [about.invalidated(reason, metric="top1", chance=1 / len(ranking.gallery))]
        first = [np.flatnonzero(pooled.speaker == speaker)[:POOLED_SETS] for speaker in np.unique(pooled.speaker)]
        thinned = pooled.rows(np.concatenate(first).astype(np.int64))
        results = list(self._of_ranking(about, thinned, [get_metric("top1"), get_metric("mean_rank")]))
        trials = claims(thinned, seed=self.seed)
        if trials is not None:
            results += self._of_trials(about, trials, [get_metric("eer")])
        return results

    def _results(self, about: Result, metrics: Sequence[Metric], population: _Population[P]) -> Iterator[Result]:
        parts = {"all": population.whole, **{s: part for s, part in population.by_sex.items() if part is not None}}
        intervals = {subset: population.intervals(part) for subset, part in parts.items()}
        for m in metrics:
            chance = m.chance_among(population.enrolled)
            of_metric = about.model_copy(update={"metric": m.name, "chance": chance})
            values = {s: v for s, part in population.by_speaker.items() if (v := population.value(m, part)) is not None}
            by_name = {self.names[speaker]: value for speaker, value in values.items()}
            own_results = m.name in PER_SPEAKER and about.pooled == 1
            for subset, part in parts.items():
                value, interval = population.value(m, part), intervals[subset][m.name]
                if subset == "all":
                    yield self._result(of_metric, value, interval, by_speaker={} if own_results else by_name)
                elif value is not None:
                    yield self._result(of_metric, value, interval, population.speakers(part), subset=subset)
            if (worst := m.worst(values)) is not None:
                interval = population.within_speaker(m, population.by_speaker[worst])
                yield self._result(of_metric, values[worst], interval, [worst], subset="worst")
            for speaker, value in values.items() if own_results else ():
                yield self._result(of_metric, value, None, [speaker], subset=self.names[speaker])

    def _result(
        self,
        about: Result,
        value: float | None,
        interval: Interval | None,
        speakers: Sequence[int] | None = None,
        **changes: Any,
    ) -> Result:
        """One result; without a value it is invalid. That of a part counts the part's speakers and clips."""
        if speakers is not None:
            changes |= {"speakers": len(speakers), "clips": sum(self.clips_of.get(s, 0) for s in speakers)}
        if value is None:
            return about.invalidated(NO_VALUE, **changes)
        category = get_metric(about.metric).tag
        return about.with_value(value, interval, tag="" if category is None else category(value), **changes)

    @property
    def _draws(self) -> dict[str, int]:
        return {"resamples": self.resamples, "seed": self.seed}

    @property
    def _sexes(self) -> list[str]:
        return sorted(set(self.sex_of.values()))

    def _sex(self, speakers: np.ndarray) -> np.ndarray:
        """Of each number; empty where it is not stated."""
        return np.array([self.sex_of.get(int(speaker), "") for speaker in speakers])
