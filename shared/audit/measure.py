"""From scores to rows: every registered metric, overall, by sex, per speaker and for the worst-off speaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Attacker
from moretta.shared.audit.audit_row import AuditRow
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
from moretta.shared.audit.metrics.pooling import pool
from moretta.shared.audit.scenarios import ScenarioName
from moretta.shared.audit.scoring import calibrated, identity_claims

POOLED = (3, 10, 30)
POOLED_SETS = 20
"""Pooled sets of each speaker that are scored."""
PER_SPEAKER = ("top1", "eer")
"""Metrics of which every speaker has a row; of the others the whole's row names every speaker's figure."""
NO_VALUE = "too few trials to resolve it"


@dataclass(frozen=True)
class AuditSpeakers:
    """The speakers of an audit, by number: metrics count, reports name."""

    names: tuple[str, ...]
    """Pseudonyms by number."""
    sex_of: Mapping[int, str]
    half_of: Mapping[int, int]
    clips_of: Mapping[int, int]
    """Trial clips."""

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each pseudonym."""
        return {name: number for number, name in enumerate(self.names)}


@dataclass(frozen=True)
class BootstrapSettings:
    """How intervals are drawn."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Subject:
    """What a row is about, whatever its metric."""

    attacker: type[Attacker]
    scenario: ScenarioName
    speakers: int
    clips: int
    pooled: int = 1

    def row(
        self,
        metric: str,
        chance: float,
        summary: Summary,
        *,
        subset: str = "all",
        reason: str = NO_VALUE,
        by_speaker: dict[str, float] | None = None,
        clips_of: Mapping[int, int] | None = None,
    ) -> AuditRow:
        """One row; without a value it is invalid, for `reason`. A part's row counts the part's speakers and clips."""
        interval = summary.interval
        return AuditRow(
            modality=self.attacker.modality,
            attacker=self.attacker.name,
            kind=self.attacker.kind,
            scenario=self.scenario,
            metric=metric,
            value=summary.value,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            chance=chance,
            speakers=self.speakers if summary.speakers is None else len(summary.speakers),
            clips=self.clips if summary.speakers is None else sum((clips_of or {}).get(s, 0) for s in summary.speakers),
            invalid=summary.value is None,
            reason="" if summary.value is not None else reason,
            subset=subset,
            pooled=self.pooled,
            tag=_tag(metric, summary.value),
            by_speaker=by_speaker or {},
        )

    def invalid(self, reason: str) -> list[AuditRow]:
        """Rows that say why there are no figures."""
        chances = {"top1": 1 / max(1, self.speakers), "eer": 0.5}
        return [self.row(metric, chance, Summary(None), reason=reason) for metric, chance in chances.items()]


def ranking_rows(
    subject: Subject, ranking: Ranking, speakers: AuditSpeakers, bootstrap: BootstrapSettings
) -> list[AuditRow]:
    """Rows of an identification, single clips and pooled ones."""
    found = measure_ranking(ranking, sex_of=speakers.sex_of, resamples=bootstrap.resamples, seed=bootstrap.seed)
    rows = list(_rows(subject, found, speakers))
    for length in POOLED:
        rows += _pooled_rows(replace(subject, pooled=length), ranking, speakers, bootstrap)
    return rows


def trial_rows(
    subject: Subject, trials: Trials, speakers: AuditSpeakers, bootstrap: BootstrapSettings
) -> list[AuditRow]:
    """Rows of a verification. Actual Cllr needs scores that mean something: it is measured after calibration."""
    resamples, seed = bootstrap.resamples, bootstrap.seed
    found = measure_trials(trials, sex_of=speakers.sex_of, resamples=resamples, seed=seed)
    ratios = calibrated(trials, speakers.half_of)
    if ratios is not None:
        cllr = [get_metric("cllr")]
        found |= measure_trials(ratios, sex_of=speakers.sex_of, metrics=cllr, llr=True, resamples=resamples, seed=seed)
    return list(_rows(subject, found, speakers))


def similarity_rows(
    subject: Subject, metric: str, similarity: Similarity, speakers: AuditSpeakers, bootstrap: BootstrapSettings
) -> list[AuditRow]:
    """Rows of a metric that compares how distinct voices are before and after."""
    resamples, seed = bootstrap.resamples, bootstrap.seed
    found = measure_similarity(similarity, metric, sex_of=speakers.sex_of, resamples=resamples, seed=seed)
    return list(_rows(subject, {metric: found}, speakers))


def _pooled_rows(
    subject: Subject, ranking: Ranking, speakers: AuditSpeakers, bootstrap: BootstrapSettings
) -> list[AuditRow]:
    length, resamples, seed = subject.pooled, bootstrap.resamples, bootstrap.seed
    pooled = pool(ranking, length, seed=seed)
    if pooled is None:
        most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
        reason = f"no speaker has {length} trial clips, the most is {most}"
        return [subject.row("top1", 1 / len(ranking.gallery), Summary(None), reason=reason)]
    thinned = pooled.rows(_first_of_each(pooled, POOLED_SETS))
    metrics = [get_metric("top1"), get_metric("mean_rank")]
    sex_of = speakers.sex_of
    found = measure_ranking(thinned, sex_of=sex_of, metrics=metrics, resamples=resamples, seed=seed)
    trials = identity_claims(thinned, seed=seed)
    if trials is not None:
        found |= measure_trials(trials, sex_of=sex_of, metrics=[get_metric("eer")], resamples=resamples, seed=seed)
    return list(_rows(subject, found, speakers))


def _first_of_each(ranking: Ranking, count: int) -> npt.NDArray[np.int64]:
    chosen = [np.flatnonzero(ranking.speaker == speaker)[:count] for speaker in np.unique(ranking.speaker)]
    return np.concatenate(chosen).astype(np.int64)


def _rows(subject: Subject, found: Mapping[str, Measured], speakers: AuditSpeakers) -> Iterator[AuditRow]:
    for m in found.values():
        own_rows = m.name in PER_SPEAKER and subject.pooled == 1
        by_speaker = {speakers.names[speaker]: value for speaker, value in m.per_speaker.items()}
        for subset, summary in {"all": m.overall, **m.by_sex, "worst": m.worst}.items():
            if summary.value is not None or subset == "all":
                folded = by_speaker if subset == "all" and not own_rows else None
                yield subject.row(
                    m.name, m.chance, summary, subset=subset, by_speaker=folded, clips_of=speakers.clips_of
                )
        if own_rows:
            for speaker, value in m.per_speaker.items():
                alone, name = Summary(value, speakers=(speaker,)), speakers.names[speaker]
                yield subject.row(m.name, m.chance, alone, subset=name, clips_of=speakers.clips_of)


def _tag(metric: str, value: float | None) -> str:
    category = get_metric(metric).tag
    return "" if category is None or value is None else category(value)


def sexes(pairs: Sequence[tuple[str, str | None]]) -> dict[int, str]:
    """Sex by speaker number, of those for whom it is stated. `pairs`: pseudonym and sex of each clip."""
    stated = dict(pairs)
    return {number: sex for number, name in enumerate(sorted(stated)) if (sex := stated[name]) is not None}
