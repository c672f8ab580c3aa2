"""From scores to results: every metric overall, by sex, per speaker and for the worst-off speaker, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from moretta.shared.audit.attackers.base import Attacker
from moretta.shared.audit.metrics.distinctiveness import Dominance, Similarity
from moretta.shared.audit.metrics.identification import Ranking, pool
from moretta.shared.audit.metrics.intervals import (
    Interval,
    bootstrap_rows,
    bootstrap_trials,
    percentile_interval,
    speaker_counts,
)
from moretta.shared.audit.metrics.scores import METRICS, Metric, Trials, metrics_of
from moretta.shared.audit.result import Result
from moretta.shared.audit.scoring import calibrated, claims

P = TypeVar("P")
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
        results = list(self._of_trials(about, trials, [m for m in metrics_of("trials") if not m.needs_llr]))
        ratios = calibrated(trials, self.half_of)
        if ratios is not None:
            results += self._of_trials(about, ratios, [m for m in metrics_of("trials") if m.needs_llr])
        return results

    def of_similarity(self, about: Result, name: str, similarity: Similarity) -> list[Result]:
        """Results of a metric that compares how distinct voices are before and after. The worst has no interval."""
        m = METRICS.get(name)

        def value(metric: Metric, part: Similarity | Dominance | None) -> float | None:
            dominance = part.dominance() if isinstance(part, Similarity) else part
            return None if dominance is None else metric.function(dominance)

        def interval(part: Similarity | Dominance) -> Interval | None:
            assert isinstance(part, Similarity)
            counts = speaker_counts(len(part.speakers), self.resamples, self.seed)
            return percentile_interval((value(m, part.dominance(count)) for count in counts), self.resamples)

        sex = self._sex(similarity.speakers)
        by_sex = {name: similarity.of(sex == name) for name in self._sexes}
        whole: Similarity | Dominance = similarity
        results = self._results(
            about,
            [m],
            whole,
            {sex: part for sex, part in by_sex.items() if len(part.speakers) > 1},
            {int(n): similarity.of_speaker(i) for i, n in enumerate(similarity.speakers)},
            enrolled=len(similarity.speakers),
            speakers=lambda part: part.speakers.tolist() if isinstance(part, Similarity) else (),
            intervals=lambda part: {m.name: interval(part)},
            within_speaker=lambda _, __: None,
            value=value,
        )
        return list(results)

    def _of_ranking(self, about: Result, ranking: Ranking, metrics: Sequence[Metric]) -> Iterator[Result]:
        """The gallery stays whole in every part and resample: a gallery of copies would make ties that do not occur."""

        def interval(m: Metric, part: Ranking, units: np.ndarray) -> Interval | None:
            return bootstrap_rows(lambda rows: m.function(part.rows(rows)), units, **self._draws)

        sex = self._sex(ranking.speaker)
        return self._results(
            about,
            metrics,
            ranking,
            {name: ranking.rows(sex == name) if (sex == name).any() else None for name in self._sexes},
            {int(s): ranking.rows(ranking.speaker == s) for s in np.unique(ranking.speaker)},
            enrolled=len(ranking.gallery),
            speakers=lambda part: np.unique(part.speaker).tolist(),
            intervals=lambda part: {m.name: interval(m, part, part.speaker) for m in metrics},
            # Every clip is its own unit: within one speaker there is nothing else to resample.
            within_speaker=lambda m, part: interval(m, part, np.arange(len(part))),
        )

    def _of_trials(self, about: Result, trials: Trials, metrics: Sequence[Metric]) -> Iterator[Result]:
        """Comparisons by sex are within one sex."""
        own = {int(s): trials.subset(trials.trial_speaker == s) for s in np.unique(trials.trial_speaker)}

        def intervals(part: Trials, chosen: Sequence[Metric], **options: Any) -> dict[str, Interval | None]:
            return bootstrap_trials({m.name: m.function for m in chosen}, part, **self._draws, **options)

        return self._results(
            about,
            metrics,
            trials,
            {sex: trials.of_sex(self.sex_of, sex) for sex in self._sexes},
            {speaker: part for speaker, part in own.items() if part is not None},
            enrolled=len(np.unique(trials.enrol_speaker)),
            speakers=lambda part: part.speakers.tolist(),
            intervals=lambda part: intervals(part, metrics),
            within_speaker=lambda m, part: intervals(part, [m], within_speaker=True)[m.name],
        )

    def _pooled(self, about: Result, ranking: Ranking) -> list[Result]:
        pooled = pool(ranking, about.pooled, seed=self.seed)
        if pooled is None:
            most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
            reason = f"no speaker has {about.pooled} trial clips, the most is {most}"
            return [about.invalidated(reason, metric="top1", chance=1 / len(ranking.gallery))]
        first = [np.flatnonzero(pooled.speaker == speaker)[:POOLED_SETS] for speaker in np.unique(pooled.speaker)]
        thinned = pooled.rows(np.concatenate(first).astype(np.int64))
        results = list(self._of_ranking(about, thinned, [METRICS.get("top1"), METRICS.get("mean_rank")]))
        trials = claims(thinned, seed=self.seed)
        if trials is not None:
            results += self._of_trials(about, trials, [METRICS.get("eer")])
        return results

    def _results(
        self,
        about: Result,
        metrics: Sequence[Metric],
        whole: P,
        by_sex: Mapping[str, P | None],
        by_speaker: Mapping[int, P],
        *,
        enrolled: int,
        speakers: Callable[[P], Sequence[int]],
        intervals: Callable[[P], Mapping[str, Interval | None]],
        within_speaker: Callable[[Metric, P], Interval | None],
        value: Callable[[Metric, P], float | None] = lambda m, part: m.function(part),
    ) -> Iterator[Result]:
        """Results of one kind of scores and of their parts.

        `by_sex` has None where there are no trials; `by_speaker`, by the true speaker of the trial, lacks those without
        mated or non-mated trials. `intervals` resample speakers, `within_speaker` the trials of one.
        """
        parts = {"all": whole, **{sex: part for sex, part in by_sex.items() if part is not None}}
        found = {subset: intervals(part) for subset, part in parts.items()}
        for m in metrics:
            of_metric = about.model_copy(update={"metric": m.name, "chance": m.chance_among(enrolled)})
            values = {s: v for s, part in by_speaker.items() if (v := value(m, part)) is not None}
            own_results = m.name in PER_SPEAKER and about.pooled == 1
            by_name = {} if own_results else {self.names[speaker]: v for speaker, v in values.items()}
            for subset, part in parts.items():
                v, interval = value(m, part), found[subset][m.name]
                if subset == "all":
                    yield self._result(m, of_metric, v, interval, by_speaker=by_name)
                elif v is not None:
                    yield self._result(m, of_metric, v, interval, speakers(part), subset=subset)
            if (worst := m.worst(values)) is not None:
                interval = within_speaker(m, by_speaker[worst])
                yield self._result(m, of_metric, values[worst], interval, [worst], subset="worst")
            for speaker, v in values.items() if own_results else ():
                yield self._result(m, of_metric, v, None, [speaker], subset=self.names[speaker])

    def _result(
        self,
        metric: Metric,
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
            return about.invalidated("too few trials to resolve it", **changes)
        return about.with_value(value, interval, tag="" if metric.tag is None else metric.tag(value), **changes)

    @property
    def _draws(self) -> dict[str, Any]:
        return {"resamples": self.resamples, "seed": self.seed}

    @property
    def _sexes(self) -> list[str]:
        return sorted(set(self.sex_of.values()))

    def _sex(self, speakers: np.ndarray) -> np.ndarray:
        """Of each number; empty where it is not stated."""
        return np.array([self.sex_of.get(int(speaker), "") for speaker in speakers])
