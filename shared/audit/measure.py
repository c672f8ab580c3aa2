"""From scores to results: every registered metric, overall, by sex, per speaker and for the worst-off speaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.attackers.base import Attacker
from moretta.shared.audit.metrics import (
    Measured,
    Ranking,
    Similarity,
    Summary,
    Trials,
    get_metric,
    measure_ranking,
    measure_similarity,
    measure_trials,
)
from moretta.shared.audit.metrics.identification import pool
from moretta.shared.audit.result import Result
from moretta.shared.audit.scoring import calibrated, claims

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
class Measurement:
    """The speakers of an audit, by number, since metrics know no names; and how intervals are drawn."""

    names: tuple[str, ...]
    """Pseudonyms by number."""
    sex_of: Mapping[int, str]
    half_of: Mapping[int, int]
    clips_of: Mapping[int, int]
    """Trial clips."""
    resamples: int
    seed: int

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each pseudonym."""
        return {name: number for number, name in enumerate(self.names)}

    def of_ranking(self, about: Result, ranking: Ranking) -> list[Result]:
        """Results of an identification, single clips and pooled ones."""
        found = measure_ranking(ranking, sex_of=self.sex_of, resamples=self.resamples, seed=self.seed)
        results = list(self._results(about, found))
        for length in POOLED:
            results += self._pooled(about.model_copy(update={"pooled": length}), ranking)
        return results

    def of_trials(self, about: Result, trials: Trials) -> list[Result]:
        """Results of a verification. Actual Cllr needs scores that mean something: it is measured calibrated."""
        options = {"sex_of": self.sex_of, "resamples": self.resamples, "seed": self.seed}
        found = measure_trials(trials, **options)  # type: ignore[arg-type]
        ratios = calibrated(trials, self.half_of)
        if ratios is not None:
            found |= measure_trials(ratios, metrics=[get_metric("cllr")], llr=True, **options)  # type: ignore[arg-type]
        return list(self._results(about, found))

    def of_similarity(self, about: Result, metric: str, similarity: Similarity) -> list[Result]:
        """Results of a metric that compares how distinct voices are before and after."""
        found = measure_similarity(similarity, metric, sex_of=self.sex_of, resamples=self.resamples, seed=self.seed)
        return list(self._results(about, {metric: found}))

    def _pooled(self, about: Result, ranking: Ranking) -> list[Result]:
        length = about.pooled
        pooled = pool(ranking, length, seed=self.seed)
        if pooled is None:
            most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
            reason = f"no speaker has {length} trial clips, the most is {most}"
            return [about.invalidated(reason, metric="top1", chance=1 / len(ranking.gallery))]
        first = [np.flatnonzero(pooled.speaker == speaker)[:POOLED_SETS] for speaker in np.unique(pooled.speaker)]
        thinned = pooled.rows(np.concatenate(first).astype(np.int64))
        options = {"sex_of": self.sex_of, "resamples": self.resamples, "seed": self.seed}
        metrics = [get_metric("top1"), get_metric("mean_rank")]
        found = measure_ranking(thinned, metrics=metrics, **options)  # type: ignore[arg-type]
        trials = claims(thinned, seed=self.seed)
        if trials is not None:
            found |= measure_trials(trials, metrics=[get_metric("eer")], **options)  # type: ignore[arg-type]
        return list(self._results(about, found))

    def _results(self, about: Result, found: Mapping[str, Measured]) -> Iterator[Result]:
        for m in found.values():
            named = {self.names[speaker]: value for speaker, value in m.per_speaker.items()}
            own_results = m.name in PER_SPEAKER and about.pooled == 1
            of_metric = about.model_copy(update={"metric": m.name, "chance": m.chance})
            for subset, summary in {"all": m.overall, **m.by_sex, "worst": m.worst}.items():
                if summary.value is not None or subset == "all":
                    by_speaker = named if subset == "all" and not own_results else {}
                    yield self._result(of_metric, summary, subset=subset, by_speaker=by_speaker)
            for speaker, value in m.per_speaker.items() if own_results else ():
                yield self._result(of_metric, Summary(value, speakers=(speaker,)), subset=self.names[speaker])

    def _result(self, about: Result, summary: Summary, **changes: object) -> Result:
        """One result; without a value it is invalid. That of a part counts the part's speakers and clips."""
        if summary.speakers is not None:
            clips = sum(self.clips_of.get(speaker, 0) for speaker in summary.speakers)
            changes |= {"speakers": len(summary.speakers), "clips": clips}
        if summary.value is None:
            return about.invalidated(NO_VALUE, **changes)
        category = get_metric(about.metric).tag
        tag = "" if category is None else category(summary.value)
        return about.with_value(summary.value, summary.interval, tag=tag, **changes)
