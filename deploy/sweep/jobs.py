"""The jobs of a sweep: releases, audits and trainings, or whole studies; each named by all that its result depends on.

Equal key, equal figures, whichever sweep made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.sweep.grid import Folds, Grid, GridCell
from moretta.server.stages.state import RESUME_FILE
from moretta.shared.audit.run_attacks import instruments
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import AuditSection, PrivacySection

Kind = Literal["release", "audit", "train", "study"]
WORK = "work"  # folder of what is being done
_USE_KEYS = ("model", "weight")  # of `[voice]` and `[face]`: they say how a release is used, not how it is made


class Job(BaseModel):
    """One piece of work. It travels to the process that does it as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    key: str
    label: str
    plan: SimulationPlan
    release: str  # key of the release that it makes, attacks or trains on


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell on one corpus, with the jobs that its figures come from."""

    cell: GridCell
    corpus: Corpus
    study: Study  # the cell's, without what the corpus does not have
    release: Job  # or that of the whole study, which then is all there is to do
    audit: Job | None  # None where the study switched the audit off
    training: tuple[Job, ...]  # one for each fold that is tested

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs; those that others need come first."""
        return (self.release, *([self.audit] if self.audit else []), *self.training)


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep has to do."""

    grid: Grid
    cells: tuple[PlannedCell, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every distinct job once: first those that others need, then those that take longest."""
        found: dict[str, Job] = {}
        for kind in ("release", "audit", "train", "study"):
            for job in (job for planned in self.cells for job in planned.jobs if job.kind == kind):
                found.setdefault(job.key, job)
        return tuple(found.values())


def plan_sweep(grid: Grid, folders: Sequence[Path], command: str, *, whole: bool = False) -> SweepPlan:
    """Find out what has to be done on each corpus.

    Args:
        grid: all cells.
        folders: of the corpora.
        command: how to do it again.
        whole: make each cell one job that runs its study to the end, with every attack, instead of parts to share.

    Raises:
        CorpusError: a corpus cannot be used.
        StudyError: a study does not fit a corpus, or names what does not exist.
    """
    read = cache(lambda folder, labels, classes: read_corpus(folder, labels=labels, classes=classes))
    digest = cache(lambda *which: corpus_digest(read(*which)))
    seen = instruments()
    cells: list[PlannedCell] = []
    warnings: dict[str, None] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for cell in grid.cells:
            which = (folder, cell.study.labels, cell.study.classes)
            plan = plan_simulation(read(*which), cell.study, command)
            cells.append(_planned(cell, read(*which), plan, (digest(*which), seen), None if whole else grid.folds))
            warnings |= dict.fromkeys(plan.warnings)
    return SweepPlan(grid, tuple(cells), tuple(warnings))


def _planned(
    cell: GridCell, corpus: Corpus, plan: SimulationPlan, found: tuple[str, str], folds: Folds | None
) -> PlannedCell:
    """`found`: the digest of the corpus, and what `instruments` says; without `folds` there is one job."""
    study, name = plan.study, cell.label
    made = key_of("release", release_study(study), found[0])

    def job(kind: Kind, key: str, label: str, of: Study) -> Job:
        return Job(kind=kind, key=key, label=label, plan=plan.model_copy(update={"study": of}), release=made)

    if folds is None:
        return PlannedCell(cell, corpus, study, job("study", key_of("study", study, *found), name, study), None, ())
    release = job("release", made, f"release for {name}", release_study(study))
    audit, training = None, []
    if study.audit.enabled:
        attacked = audit_study(study)
        audit = job("audit", key_of("audit", attacked, *found), f"audit of {name}", attacked)
    for fold in range(study.split.folds) if folds == "all" else (study.split.test_fold,):
        trained = training_study(study.with_changes(split__test_fold=fold))
        label = f"training of {name}, fold {fold + 1} of {study.split.folds}"
        training.append(job("train", key_of("train", trained, found[0]), label, trained))
    return PlannedCell(cell, corpus, study, release, audit, tuple(training))


def folder_of(out: Path, job: Job) -> Path:
    """Where a job's run lies: releases stay, the others' are gone when the job is done."""
    return out / "releases" / job.release if job.kind == "release" else out / WORK / f"{job.kind}-{job.key}"


def is_made(job: Job, out: Path) -> bool:
    """Whether the release that a job needs still lies there, whole."""
    return (out / "releases" / job.release / RESUME_FILE).exists()


def release_study(study: Study) -> Study:
    """The study with everything at its default that does not change what sites release.

    Training, its budget, the split and the attackers come after: studies that differ in these alone share a release.
    """
    kept: dict[str, Any] = {key: getattr(study, key) for key in ("seed", "labels", "classes", "sites")}
    for name in ("voice", "face"):
        plain = getattr(Study(), name)
        unused = {key: getattr(plain, key) for key in _USE_KEYS if hasattr(plain, key)}
        kept[name] = getattr(study, name).model_copy(update=unused)
    return Study(**kept, privacy=PrivacySection(dp_sgd=False), audit=AuditSection(attributes=study.audit.attributes))


def training_study(study: Study) -> Study:
    """The study with everything at its default that changes no model: its name, its gate, its attackers.

    Without DP-SGD the budget is never looked at.
    """
    private = study.privacy if study.privacy.dp_sgd else PrivacySection(dp_sgd=False, delta=study.privacy.delta)
    plain = Study()
    audit = AuditSection(enabled=False, attributes=study.audit.attributes)
    return study.model_copy(update={"name": plain.name, "gate": plain.gate, "audit": audit, "privacy": private})


def audit_study(study: Study) -> Study:
    """The release's study with what attackers depend on. Attacks beyond identity are no part of a sweep."""
    audit = study.audit.model_copy(update={"inference": False})
    return release_study(study).model_copy(update={"audit": audit})


def key_of(kind: str, study: Study, corpus: str, *more: str) -> str:
    """40 hexadecimal digits: of a kind of work, its study and the files that names, the corpus, and the code it is."""
    files = [named_digest(path) for _, path in sorted(study.paths.items())]
    content: list[Any] = [kind, study.model_dump(mode="json"), corpus, files, environment_digest(), more]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 over names and contents of all that a corpus was read from, hexadecimal."""
    files = {path for clip in corpus.clips for path in clip.files}
    files |= {path for path in corpus.root.iterdir() if path.is_file()}  # demographics, votes
    digest = hashlib.sha256(json.dumps(sorted(str(drop) for drop in corpus.dropped)).encode())
    for path in sorted(files):
        digest.update(f"{path.relative_to(corpus.root).as_posix()}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


@cache
def named_digest(path: Path | None) -> str:
    """SHA-256 over a file, or over all files of a folder by name; empty if there is none."""
    if path is None:
        return ""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return hashlib.sha256("\n".join(f"{file.name}\0{_sha256(file)}" for file in files).encode()).hexdigest()


@cache
def environment_digest() -> str:
    """Digest of Moretta's code and of the versions that it runs on."""
    return json.dumps([code_digest(), versions()], sort_keys=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
