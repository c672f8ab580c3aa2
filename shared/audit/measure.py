"""From scores to results: every metric overall, by sex, per speaker and for the worst-off, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moretta.shared.audit.attackers.base import Attacker
from moretta.shared.audit.metrics.distinctiveness import Dominance, Similarity
from moretta.shared.audit.metrics.identification import EACH_TRIAL, Ranking, pool
from moretta.shared.audit.metrics.intervals import (
    Interval,
    bootstrap_rows,
    bootstrap_trials,
    bootstrap_values,
    percentile_interval,
    speaker_counts,
)
from moretta.shared.audit.metrics.scores import METRICS, OF_TIES, Metric, Trials, metrics_of
from moretta.shared.audit.result import Result
from moretta.shared.audit.scoring import calibrated, claims
from moretta.shared.core.array_types import Int64

Scores = Trials | Ranking | Similarity
Part = Scores | Dominance
POOLED = (3, 10, 30)
POOLED_SETS = 20
"""Pooled sets of each speaker that are scored."""
PER_SPEAKER = ("top1", "eer")
"""Metrics of which every speaker has a result; of the others the whole's result holds every speaker's figure."""


def blank(attacker: type[Attacker], scenario: str, *, speakers: int, clips: int) -> Result:
    """A result without metric and figure."""
    about = Result(modality=attacker.modality, attacker=attacker.name, kind=attacker.kind, scenario=scenario, metric="")
    return about.model_copy(update={"speakers": speakers, "clips": clips})


def failed(
    attacker: type[Attacker], scenarios: Iterable[str], reason: str, *, speakers: int, clips: int
) -> list[Result]:
    """Results of an attacker that state why there are no figures."""
    chances = {"top1": 1 / max(1, speakers), "eer": 0.5}
    return [
        blank(attacker, scenario, speakers=speakers, clips=clips).invalidated(reason, metric=metric, chance=chance)
        for scenario in scenarios
        for metric, chance in chances.items()
    ]


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
    """Resamples of each interval; 0 leaves intervals out."""
    seed: int = 0
    age_of: Mapping[int, str] = field(default_factory=dict)
    """Age groups."""

    def of_ranking(self, about: Result, ranking: Ranking) -> list[Result]:
        """Results of an identification: single clips, those of each age group by top-1, and pooled ones.

        Of an attacker of pools, pooled ones alone.
        """
        results = [] if ranking.of_pools else list(self._results(about, ranking, metrics_of("ranking")))
        top1 = METRICS.get("top1")
        of_top1 = about.model_copy(update={"metric": "top1", "chance": top1.chance_among(ranking.enrolled)})
        for group in () if ranking.of_pools else sorted(set(self.age_of.values())):
            if (part := ranking.of_sex(self.age_of, group)) is not None:
                interval = self._intervals(part, [top1])["top1"]
                value = _value(top1, part)
                results.append(self._result(top1, of_top1, value, interval, part.speakers.tolist(), subset=group))
        for length in POOLED:
            results += self._pooled(about.model_copy(update={"pooled": length}), ranking)
        return results

    def of_trials(self, about: Result, trials: Trials) -> list[Result]:
        """Results of a verification. Actual Cllr needs scores that mean something: it is measured calibrated."""
        results = list(self._results(about, trials, [m for m in metrics_of("trials") if not m.needs_llr]))
        ratios = calibrated(trials, self.half_of)
        if ratios is not None:
            results += self._results(about, ratios, [m for m in metrics_of("trials") if m.needs_llr])
        return results

    def of_similarity(self, about: Result, name: str, similarity: Similarity) -> list[Result]:
        """Results of a metric that compares how distinct voices are before and after. The worst has no interval."""
        return list(self._results(about, similarity, [METRICS.get(name)]))

    def _pooled(self, about: Result, ranking: Ranking) -> list[Result]:
        pooled = pool(ranking, about.pooled, seed=self.seed, most=POOLED_SETS)
        if pooled is None:
            most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
            reason = f"no speaker has {about.pooled} trial clips, the most is {most}"
            return [about.invalidated(reason, metric="top1", chance=1 / len(ranking.gallery))]
        results = list(self._results(about, pooled, [METRICS.get("top1"), METRICS.get("mean_rank")]))
        trials = claims(pooled, seed=self.seed)
        if trials is not None:
            results += self._results(about, trials, [METRICS.get("eer")])
        return results

    def _results(self, about: Result, scores: Scores, metrics: Sequence[Metric]) -> Iterator[Result]:
        sexes = sorted(set(self.sex_of.values()))
        by_sex = {sex: part for sex in sexes if (part := scores.of_sex(self.sex_of, sex)) is not None}
        parts: dict[str, Scores] = {"all": scores, **by_sex}
        found = {subset: self._intervals(part, metrics) for subset, part in parts.items()}
        of_speakers = {m.name: values for m, values in zip(metrics, _by_speaker(metrics, scores), strict=True)}
        worst = {m.name: m.worst(of_speakers[m.name]) for m in metrics}
        of_worst: dict[tuple[str, int], Interval | None] = {}
        for speaker in {one for one in worst.values() if one is not None}:
            theirs = [m for m in metrics if worst[m.name] == speaker]
            intervals = self._intervals(_part_of(scores, speaker), theirs, within_speaker=True)
            of_worst |= {(name, speaker): interval for name, interval in intervals.items()}
        for m in metrics:
            of_metric = about.model_copy(update={"metric": m.name, "chance": m.chance_among(scores.enrolled)})
            values = of_speakers[m.name]
            own_results = m.name in PER_SPEAKER and about.pooled == 1
            by_name = {} if own_results else {self.names[speaker]: value for speaker, value in values.items()}
            for subset, part in parts.items():
                value, interval = _value(m, part), found[subset][m.name]
                if subset == "all":
                    yield self._result(m, of_metric, value, interval, by_speaker=by_name)
                elif value is not None:
                    yield self._result(m, of_metric, value, interval, part.speakers.tolist(), subset=subset)
            if (one := worst[m.name]) is not None:
                yield self._result(m, of_metric, values[one], of_worst[m.name, one], [one], subset="worst")
            for speaker, value in values.items() if own_results else ():
                yield self._result(m, of_metric, value, None, [speaker], subset=self.names[speaker])

    def _intervals(
        self, part: Part, metrics: Sequence[Metric], *, within_speaker: bool = False
    ) -> Mapping[str, Interval | None]:
        """Resamples speakers, or the trials of one speaker: every clip is then its own unit."""
        draws: dict[str, Any] = {"resamples": self.resamples, "seed": self.seed}
        if isinstance(part, Trials):
            return bootstrap_trials({m.name: m.function for m in metrics}, part, within_speaker=within_speaker, **draws)
        if isinstance(part, Ranking):
            # The gallery stays whole in every resample: a gallery of copies would make ties that do not occur.
            units = np.arange(len(part)) if within_speaker else part.speaker
            return {m.name: _interval_of_ranking(m, part, units, draws) for m in metrics}
        if isinstance(part, Dominance):
            return dict.fromkeys(m.name for m in metrics)
        counts = speaker_counts(len(part.speakers), self.resamples, self.seed)
        dominances = [part.dominance(count) for count in counts]
        return {m.name: percentile_interval((_value(m, d) for d in dominances), self.resamples) for m in metrics}

    def _result(
        self,
        metric: Metric,
        about: Result,
        value: float | None,
        interval: Interval | None,
        speakers: Sequence[int] | None = None,
        **changes: Any,
    ) -> Result:
        """One result, invalid without a value. A result for some speakers counts these speakers and their clips."""
        if speakers is not None:
            changes |= {"speakers": len(speakers), "clips": sum(self.clips_of.get(s, 0) for s in speakers)}
        if value is None:
            return about.invalidated("too few trials to resolve it", **changes)
        return about.with_value(value, interval, tag="" if metric.tag is None else metric.tag(value), **changes)


def _interval_of_ranking(metric: Metric, ranking: Ranking, units: Int64, draws: dict[str, Any]) -> Interval | None:
    if _value(metric, ranking) is None:
        return None
    if metric.function in EACH_TRIAL:
        values, middle = EACH_TRIAL[metric.function]
        return bootstrap_values(values(ranking), units, middle=middle, **draws)
    return bootstrap_rows(lambda rows: metric.function(ranking.rows(rows)), units, **draws)


def _part_of(scores: Scores, speaker: int) -> Part:
    """A speaker's part, who has one."""
    if isinstance(scores, Similarity):
        return scores.by_speaker()[speaker]
    part = scores.rows(scores.speaker == speaker) if isinstance(scores, Ranking) else scores.of_speaker(speaker)
    assert part is not None
    return part


def _by_speaker(metrics: Sequence[Metric], scores: Scores) -> Iterator[dict[int, float]]:
    """For each metric the values of speakers who have one."""
    parts: Mapping[int, Part] | None = None
    speakers, ties = scores.ties_by_speaker() if isinstance(scores, Trials) else ([], None)
    for metric in metrics:
        if ties is not None and (of_ties := OF_TIES.get(metric.function)) is not None:
            values = zip(speakers, of_ties(ties).tolist(), strict=True)
            yield {speaker: value for speaker, value in values if not np.isnan(value)}
            continue
        parts = scores.by_speaker() if parts is None else parts
        yield {speaker: value for speaker, part in parts.items() if (value := _value(metric, part)) is not None}


def _value(metric: Metric, part: Part | None) -> float | None:
    scores = part.dominance() if isinstance(part, Similarity) else part
    return None if scores is None else metric.function(scores)
