"""The work of a sweep: releases, attacks on them, and trainings on them, each named by what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moretta.deploy.simulate import plan_simulation
from moretta.deploy.sweep.grid import Folds, Grid, GridCell
from moretta.deploy.sweep.keys import (
    audit_study,
    corpus_digest,
    instruments,
    key_of,
    release_study,
    training_study,
)
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study

Kind = Literal["release", "audit", "train"]
WORK = "work"
"""Folder of what is being done."""


class Job(BaseModel):
    """One piece of work. It travels to the process that does it as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    key: str
    """Of what it depends on: equal key, equal result."""
    label: str
    plan: SimulationPlan
    release: str
    """Key of the release that it makes, attacks or trains on."""


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell on one corpus, with the work that its figures come from."""

    cell: GridCell
    corpus: Corpus
    study: Study
    """Of the cell, as the corpus can carry it."""
    release: Job
    audit: Job | None
    """None where the study switched the audit off."""
    training: tuple[Job, ...]
    """One for each fold that is tested."""
    absent: dict[str, str]
    """Modalities that the study wanted and the corpus has not."""


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep has to do."""

    grid: Grid
    cells: tuple[PlannedCell, ...]
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every distinct piece of work, once; what others need comes first, then what takes longest."""
        found: dict[str, Job] = {}
        for kind in ("release", "audit", "train"):
            for planned in self.cells:
                jobs = (planned.release, *([planned.audit] if planned.audit else []), *planned.training)
                found |= {job.key: found.get(job.key, job) for job in jobs if job.kind == kind}
        return tuple(found.values())


def plan_sweep(grid: Grid, folders: Sequence[Path], command: str) -> SweepPlan:
    """Find out what has to be done on each corpus.

    Raises:
        CorpusError: a corpus cannot be used.
        StudyError: a corpus cannot carry one of the studies, or one names what does not exist.
    """
    read = cache(lambda folder, labels: read_corpus(folder, labels=labels))
    digest = cache(lambda folder, labels: corpus_digest(read(folder, labels)))
    seen = instruments()
    cells: list[PlannedCell] = []
    warnings: dict[str, None] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for cell in grid.cells:
            which = (folder, cell.study.labels)
            ground = _Ground(read(*which), digest(*which), command, seen)
            planned, notes = _planned(cell, ground, grid.folds)
            cells.append(planned)
            warnings |= dict.fromkeys(notes)
    return SweepPlan(grid, tuple(cells), tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all cells on one corpus have in common."""

    corpus: Corpus
    digest: str
    command: str
    instruments: str


def _planned(cell: GridCell, ground: _Ground, folds: Folds) -> tuple[PlannedCell, tuple[str, ...]]:
    plan = plan_simulation(ground.corpus, cell.study, ground.command)
    study = plan.study
    wanted = release_study(study)
    made = key_of("release", wanted, ground.digest)

    def job(kind: Kind, key: str, label: str, of: Study) -> Job:
        return Job(kind=kind, key=key, label=label, plan=plan.model_copy(update={"study": of}), release=made)

    audit = None
    if study.audit.enabled:
        attacked = audit_study(study)
        key = key_of("audit", attacked, ground.digest, ground.instruments)
        audit = job("audit", key, f"audit of {cell.label}", attacked)
    tested = range(study.split.folds) if folds == "all" else (study.split.test_fold,)
    training = []
    for fold in tested:
        trained = training_study(study.with_changes(split__test_fold=fold))
        label = f"training of {cell.label}, fold {fold + 1} of {study.split.folds}"
        training.append(job("train", key_of("train", trained, ground.digest), label, trained))
    release = job("release", made, f"release for {cell.label}", wanted)
    return PlannedCell(cell, ground.corpus, study, release, audit, tuple(training), plan.absent), plan.warnings


def folder_of(out: Path, job: Job) -> Path:
    """Where a job's run lies: releases stay, the others' are gone when the job is done."""
    return out / "releases" / job.release if job.kind == "release" else out / WORK / f"{job.kind}-{job.key}"
