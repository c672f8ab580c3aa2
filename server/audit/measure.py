"""From scores to rows: every registered metric, overall, by sex, per speaker and for the worst-off speaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moretta.server.audit.attackers.base import Attacker
from moretta.server.audit.metrics import Measured, Metric, Ranking, Trials, get_metric, measure_ranking, measure_trials
from moretta.server.audit.metrics.pooling import pool
from moretta.server.audit.rows import AuditRow
from moretta.server.audit.scenarios import ScenarioName
from moretta.server.audit.scoring import calibrated, claims

POOLED = (3, 10, 30)
POOLED_SETS = 20
"""Pooled sets of each speaker that are scored."""
PER_SPEAKER = ("top1", "eer")


@dataclass(frozen=True)
class People:
    """The speakers of an audit, by number: metrics count, reports name."""

    names: tuple[str, ...]
    """Pseudonyms by number."""
    sex_of: Mapping[int, str]
    half_of: Mapping[int, int]

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each pseudonym."""
        return {name: number for number, name in enumerate(self.names)}


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int
    seed: int


def ranking_rows(
    cls: type[Attacker], scenario: ScenarioName, ranking: Ranking, people: People, bootstrap: Bootstrap
) -> list[AuditRow]:
    """Rows of an identification, single clips and pooled ones."""
    found = measure_ranking(ranking, sex_of=people.sex_of, resamples=bootstrap.resamples, seed=bootstrap.seed)
    rows = list(_rows(cls, scenario, found, people, len(ranking.gallery), len(ranking)))
    for length in POOLED:
        rows += _pooled_rows(cls, scenario, ranking, length, bootstrap)
    return rows


def trial_rows(
    cls: type[Attacker], scenario: ScenarioName, trials: Trials, clips: int, people: People, bootstrap: Bootstrap
) -> list[AuditRow]:
    """Rows of a verification. Actual Cllr needs scores that mean something: it is measured after calibration."""
    options = {"resamples": bootstrap.resamples, "seed": bootstrap.seed}
    found = measure_trials(trials, sex_of=people.sex_of, **options)
    ratios = calibrated(trials, people.half_of)
    if ratios is not None:
        needing = [get_metric("cllr")]
        found |= measure_trials(ratios, sex_of=people.sex_of, metrics=needing, llr=True, **options)
    return list(_rows(cls, scenario, found, people, len(trials.speakers), clips))


def _pooled_rows(
    cls: type[Attacker], scenario: ScenarioName, ranking: Ranking, length: int, bootstrap: Bootstrap
) -> list[AuditRow]:
    pooled = pool(ranking, length, seed=bootstrap.seed)
    common = {"modality": cls.modality, "attacker": cls.name, "kind": cls.kind, "scenario": scenario, "pooled": length}
    enrolled = len(ranking.gallery)
    if pooled is None:
        most = int(np.unique(ranking.speaker, return_counts=True)[1].max())
        reason = f"no speaker has {length} trial clips, the most is {most}"
        row = AuditRow(
            **common,
            metric="top1",
            value=None,
            chance=1 / enrolled,
            speakers=enrolled,
            clips=0,
            void=True,
            reason=reason,
        )
        return [row]
    thinned = pooled.rows(_first_of_each(pooled, POOLED_SETS))
    options = {"resamples": bootstrap.resamples, "seed": bootstrap.seed}
    metrics: list[Metric] = [get_metric("top1"), get_metric("mean_rank")]
    found = dict(measure_ranking(thinned, metrics=metrics, **options))
    trials = claims(thinned, seed=bootstrap.seed)
    if trials is not None:
        found |= measure_trials(trials, metrics=[get_metric("eer")], **options)
    return [
        _row(common, measured, measured.overall.value, measured.overall.interval, enrolled, len(ranking))
        for measured in found.values()
    ]


def _first_of_each(ranking: Ranking, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    chosen = [np.flatnonzero(ranking.speaker == speaker)[:count] for speaker in np.unique(ranking.speaker)]
    return np.concatenate(chosen).astype(np.int64)


def _rows(
    cls: type[Attacker],
    scenario: ScenarioName,
    found: Mapping[str, Measured],
    people: People,
    speakers: int,
    clips: int,
) -> Iterator[AuditRow]:
    common = {"modality": cls.modality, "attacker": cls.name, "kind": cls.kind, "scenario": scenario}
    for measured in found.values():
        parts = {"all": measured.overall, **measured.by_sex, "worst": measured.worst}
        for subset, summary in parts.items():
            if summary.value is None and subset != "all":
                continue
            yield _row(common, measured, summary.value, summary.interval, speakers, clips, subset)
        if measured.name in PER_SPEAKER:
            for speaker, value in measured.per_speaker.items():
                yield _row(common, measured, value, None, speakers, clips, people.names[speaker])


def _row(
    common: Mapping[str, object],
    measured: Measured,
    value: float | None,
    interval: object,
    speakers: int,
    clips: int,
    subset: str = "all",
) -> AuditRow:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    lacking = "" if value is not None else "too few trials to resolve it"
    return AuditRow.model_validate(
        {
            **common,
            "metric": measured.name,
            "value": value,
            "low": low,
            "high": high,
            "chance": measured.chance,
            "speakers": speakers,
            "clips": clips,
            "subset": subset,
            "void": value is None,
            "reason": lacking,
        }
    )


def void_row(
    cls: type[Attacker], scenario: ScenarioName, reason: str, *, metric: str, chance: float, speakers: int, clips: int
) -> AuditRow:
    """A row that says why there is no figure."""
    return AuditRow(
        modality=cls.modality,
        attacker=cls.name,
        kind=cls.kind,
        scenario=scenario,
        metric=metric,
        value=None,
        chance=chance,
        speakers=speakers,
        clips=clips,
        void=True,
        reason=reason,
    )


def sexes(pairs: Sequence[tuple[str, str | None]]) -> dict[int, str]:
    """Sex by speaker number, of those for whom it is stated. `pairs`: pseudonym and sex of each clip."""
    stated = dict(pairs)
    return {number: sex for number, name in enumerate(sorted(stated)) if (sex := stated[name]) is not None}
