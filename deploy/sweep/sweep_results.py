"""Results of finished jobs, one file each, and the rows of a sweep that are made of them.

A row pools its folds, averages its seeds, and draws its intervals over speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from moretta.deploy.sweep.jobs import Job, PlannedCell, SweepPlan
from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.report.report_schema import EmotionResult, HeadlineFigure, PrivacyRow, Record
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.sweep_rows import SweepRow, with_fronts
from moretta.shared.audit.report.tables import UNITS
from moretta.shared.audit.result import Result, of_emotion, strongest
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.reproducibility import derive

Values = dict[str, Any]


class Released(Record):
    """Privacy statements of the sites' releases."""

    privacy: tuple[PrivacyRow, ...]


class CellAudit(Record):
    """Results of attackers and utility evaluators."""

    rows: tuple[Result, ...]
    utility: tuple[Result, ...]
    not_run: dict[str, str] = Field(default_factory=dict)  # by modality, why nothing could be attacked


class Spent(Record):
    """Epsilon of the clip and of the speaker with the largest loss, at the worst site; None is no finite guarantee."""

    clip: float | None
    speaker: float | None


class Trained(Record):
    """Results on one fold of a model that was trained without it, and their privacy loss."""

    emotion: dict[str, EmotionResult]
    counts: dict[str, dict[str, list[list[int]]]]  # by output and pseudonymous speaker: [true class, predicted class]
    numbers: dict[str, SpeakerId]
    """Pseudonym to the speaker's number in the corpus: another seed gives another pseudonym. Stays on this machine."""
    privacy: tuple[PrivacyRow, ...]
    releases: Spent  # by the ledgers: what has left the sites
    models: Spent  # by the ledgers: what the trained models reveal


class Studied(CellAudit):
    """A whole study: what its sites state, what every attacker found, and how long its stages took."""

    inference: tuple[Result, ...]
    voted: tuple[Result, ...] = ()
    """Utility by the crowd's votes in place of the intended labels."""
    not_voted: str = ""  # why there is none
    parameters: dict[str, Any]  # of the statement of the first site
    releases: Spent
    seconds: dict[str, float]  # by stage
    clip_seconds: float  # of sound or pictures, of all clips of the corpus
    clips: int


R = TypeVar("R", bound=Record)
_KINDS: dict[str, type[Record]] = {"release": Released, "audit": CellAudit, "train": Trained, "study": Studied}


class ResultFolder:
    """The results of a sweep: each file is whole or not there at all."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "done"

    def keep(self, job: Job, result: Record) -> None:
        """Write a result for its owner alone to read: it names speakers."""
        write_atomic(self._path(job), result.model_dump_json() + "\n", mode=0o600)

    def find(self, job: Job) -> Record | None:
        """The result of a job; None if none can be read, so that the job is done again."""
        try:
            return _KINDS[job.kind].model_validate_json(self._path(job).read_bytes())
        except (OSError, ValidationError):
            return None

    def get(self, job: Job, kind: type[R]) -> R | None:
        """The result of a job, if it is of this kind."""
        found = self.find(job)
        return found if isinstance(found, kind) else None

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.kind}-{job.key}.json"


def collect(plan: SweepPlan, folder: ResultFolder, failures: Mapping[str, str]) -> tuple[SweepRow, ...]:
    """All rows, in the order of the grid. `failures`: by the key of a job, why it has no result."""
    groups: dict[tuple[Any, ...], list[PlannedCell]] = {}
    for planned in plan.cells:
        groups.setdefault((str(planned.corpus.root), planned.cell.curve, planned.cell.settings), []).append(planned)
    rows = []
    for cells in groups.values():
        first = cells[0]
        rows += [
            SweepRow(
                curve=first.cell.curve,
                corpus=first.corpus.name,
                modality=modality,
                settings=dict(first.cell.settings),
                seeds=tuple(dict.fromkeys(c.study.seed for c in cells)),
                failed="; ".join(dict.fromkeys(failures[j.key] for c in cells for j in c.jobs if j.key in failures)),
                **_figures(cells, modality, folder),
            )
            for modality in first.study.modalities
        ]
    return with_fronts(rows)


def _figures(cells: Sequence[PlannedCell], modality: str, folder: ResultFolder) -> Values:
    """Figures that all seeds and folds have: the mean of a part of them would be another figure."""
    private, seed = cells[0].study.privacy, cells[0].study.seed
    releases = [folder.get(c.release, Released) for c in cells]
    audits = [folder.get(c.audit, CellAudit) for c in cells if c.audit]
    trained = [[folder.get(job, Trained) for job in c.training] for c in cells]
    found: Values = {
        "delta": private.delta,
        "model_nominal": private.epsilon if private.dp_sgd else None,
        "model_nominal_unit": private.unit if private.dp_sgd else "",
        **_nominal((row for each in releases if each for row in each.privacy), modality),
    }
    if None not in audits:
        found |= _attacked([each for each in audits if each], modality)
    if not any(None in folds for folds in trained):
        known = [[each for each in folds if each] for folds in trained]
        every = [t for folds in known for t in folds]
        of_sites = (row.epsilon for t in every for row in t.privacy if row.unit == "site" and row.epsilon is not None)
        found |= {"folds": len(known[0]), "model_site": max(of_sites, default=None), **_emotion(known, modality, seed)}
        for what, spent in (("release", [t.releases for t in every]), ("model", [t.models for t in every])):
            found[f"{what}_clip"] = if_all_known(max, (s.clip for s in spent))  # the worst fold and seed
            found[f"{what}_speaker"] = if_all_known(max, (s.speaker for s in spent))
    return found


def _emotion(trained: Sequence[Sequence[Trained]], modality: str, seed: int) -> Values:
    """UAR over the clips of all tested folds; the mean over seeds, with speakers drawn once for all of them."""
    found = [[t for t in folds if modality in t.counts] for folds in trained]
    if not all(found):
        return {}
    by_seed = [
        {t.numbers[name]: np.array(table, np.int64) for t in folds for name, table in t.counts[modality].items()}
        for folds in found
    ]
    names = {number: name for t in found[0] for name, number in t.numbers.items()}
    # By the first seed's pseudonyms, as a single run draws its intervals; unknown ones last
    every = set[SpeakerId]().union(*by_seed)
    numbers = sorted(every, key=lambda number: (number not in names, names.get(number, ""), number))
    nothing = np.zeros_like(next(iter(by_seed[0].values())))
    counts = np.stack([[tables.get(n, nothing) for tables in by_seed] for n in numbers])  # [speakers, seeds, c, c]

    def mean_uar(drawn: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(confusion.uar(drawn).mean(axis=-1), np.float64)

    whole = counts.sum(axis=0)  # [seeds, c, c]
    low, high = confusion.bootstrap(counts, mean_uar, seed=derive(seed, "emotion intervals")) or (None, None)
    return {
        "uar": float(mean_uar(whole)),
        "uar_low": low,
        "uar_high": high,
        "uar_chance": 1 / int((whole[0].sum(axis=1) > 0).sum()),
        "test_speakers": len(numbers),
        "test_clips": int(whole[0].sum()),
    }


def _attacked(audits: Sequence[CellAudit], modality: str) -> Values:
    """Figures of the strongest attacker and of the best utility evaluator, averaged over seeds."""
    figures = [f for a in audits for part in headlines(a.rows, None) if part.modality == modality for f in part.figures]
    why = dict.fromkeys(found.not_run[modality] for found in audits if modality in found.not_run)
    values: Values = {"note": "; ".join(why)}
    for metric in ("top1", "eer"):
        mine = [figure for figure in figures if figure.metric == metric]
        if mine and len(mine) == len(audits):  # else of one seed nothing is known: neither is of the mean
            values |= _averaged((metric, f"{metric}_low", f"{metric}_high"), mine)
            values[f"{metric}_chance"] = if_all_known(np.mean, (f.chance for f in mine))
            values[f"{metric}_unprotected"] = if_all_known(np.mean, (f.unprotected for f in mine))
            values[f"{metric}_by"] = ", ".join(dict.fromkeys(f"{f.attacker} ({f.scenario})" for f in mine))
    best = []
    for audited in audits:  # trained on releases or used as published
        used = (r for r in of_emotion(audited.utility) if r.modality == modality and not r.is_anchor)
        row = strongest(r for r in used if r.scenario == "semi-informed" or r.kind == "pretrained")
        best += [row] if row is not None else []
    if best and len(best) == len(audits):
        values |= _averaged(("evaluator_uar", "evaluator_low", "evaluator_high"), best)
        values["evaluator"] = ", ".join(dict.fromkeys(row.attacker for row in best))
    return values


def _nominal(rows: Iterable[PrivacyRow], modality: str) -> Values:
    """Nominal epsilon of the release for the smallest unit; of equal ones, with the largest unit that has it."""
    claims = [r for r in rows if r.mechanism.startswith(f"{modality} release") and r.nominal is not None]
    if not claims:
        return {}
    smallest = min(claims, key=lambda row: UNITS.index(row.unit))
    meant = max((r for r in claims if r.nominal == smallest.nominal), key=lambda row: UNITS.index(row.unit))
    return {"release_nominal": meant.nominal, "release_nominal_unit": meant.unit}


def _averaged(names: Sequence[str], figures: Sequence[HeadlineFigure | Result]) -> Values:
    """The mean over seeds, and the widest of their intervals."""
    low, high = if_all_known(min, (f.low for f in figures)), if_all_known(max, (f.high for f in figures))
    return dict(zip(names, (if_all_known(np.mean, (f.value for f in figures)), low, high), strict=True))


def if_all_known(choose: Callable[[list[float]], Any], values: Iterable[float | None]) -> float | None:
    """One value of several, such as the largest; None if there is none, or one of them is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return float(choose(known)) if found and len(known) == len(found) else None
