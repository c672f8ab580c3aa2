"""Doing one piece of a sweep's work: with the stages, the exchange and the sites of a simulation, and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from moretta.client.accounting.account import Account, Audience, Unit
from moretta.client.accounting.ledger import Ledger
from moretta.client.accounting.take_over_release import take_over_release
from moretta.client.settings import SiteSettings, simulated_site
from moretta.deploy.runtime.local import connect_locally
from moretta.deploy.sweep.done import CellAudit, Done, Released, ResultFolder, Spent, Trained
from moretta.deploy.sweep.jobs import Job, folder_of
from moretta.server.stages import SITE_STAGES
from moretta.server.stages.audit import TOO_FEW, audit, can_be_attacked
from moretta.server.stages.report import privacy_rows
from moretta.server.stages.run_context import Run, Stage, run_stages
from moretta.server.stages.state import RESUME_FILE, load_progress, save_progress
from moretta.shared.core.errors import RunError

_RELEASE = "release"
_BEFORE_RELEASE = [stage.name for stage in SITE_STAGES[: [s.name for s in SITE_STAGES].index(_RELEASE)]]


def do(job: Job, out: Path) -> None:
    """Do a job and keep its result. What an earlier attempt left of it is thrown away first."""
    started = time.monotonic()
    folder = folder_of(out, job)
    shutil.rmtree(folder, ignore_errors=True)
    work = {"release": _release, "audit": _audit, "train": _train}[job.kind]
    result = work(job, folder, out)
    ResultFolder(out).keep(job, result.model_copy(update={"seconds": round(time.monotonic() - started, 2)}))
    if job.kind != "release":
        shutil.rmtree(folder, ignore_errors=True)


def is_made(job: Job, out: Path) -> bool:
    """Whether the release that a job needs still lies there, whole."""
    return (out / "releases" / job.release / RESUME_FILE).exists()


def _release(job: Job, folder: Path, out: Path) -> Done:
    del out
    run = _started(job, folder)
    run_stages(run, _stages(up_to=_RELEASE))
    save_progress(run)
    return Released(
        privacy=tuple(privacy_rows(run)),
        clips=sum(record.clips for record in run.sites.values()),
        speakers=sum(record.speakers for record in run.sites.values()),
        warnings=tuple(run.warnings),
    )


def _audit(job: Job, folder: Path, out: Path) -> Done:
    before = _made(out, job)
    job.plan.save(folder)
    run = Run(folder=folder, plan=job.plan, sites=before.sites, releases=before.releases, absent=before.absent)
    run.workers, run.embeddings = 1, out / "embeddings"
    not_run: dict[str, str] = {
        m: TOO_FEW for m in run.study.modalities if m not in run.absent and not can_be_attacked(run, m)
    }
    run.absent = run.absent | not_run
    run_stages(run, [Stage("audit", audit)])
    return CellAudit(rows=tuple(run.audit), utility=tuple(run.utility), not_run=not_run, warnings=tuple(run.warnings))


def _train(job: Job, folder: Path, out: Path) -> Done:
    before = _made(out, job)
    job.plan.save(folder)
    sites = [simulated_site(folder, number) for number in range(len(job.plan.sites))]
    for number, site in enumerate(sites):
        take_over_release(simulated_site(before.folder, number), before.study, site, job.plan.study)
    run = _started(job, folder)
    run.public, run.done = before.public, list(_BEFORE_RELEASE)
    run_stages(run, SITE_STAGES)
    keys = job.plan.pseudonym_keys()
    return Trained(
        emotion=run.emotion,
        counts={o: {s: table.tolist() for s, table in tables.items()} for o, tables in run.counts.items()},
        numbers={keys[number].speaker(number): number for number in sorted(job.plan.test_speakers)},
        absent={output: why for output, why in run.absent.items() if output not in run.emotion},
        privacy=tuple(privacy_rows(run)),
        releases=_spent(sites, "server", delta=job.plan.study.privacy.delta),
        models=_spent(sites, "model", delta=job.plan.study.privacy.delta),
        warnings=tuple(run.warnings),
    )


def _started(job: Job, folder: Path) -> Run:
    job.plan.save(folder)
    run = Run(folder=folder, plan=job.plan)
    connect_locally(run, len(job.plan.sites))
    return run


def _made(out: Path, job: Job) -> Run:
    """The run that made a release, with what its sites told."""
    folder = out / "releases" / job.release
    run = load_progress(folder)
    if run is None:
        raise RunError(f"no release in {folder}", fix="run the sweep again: it is made then")
    return run


def _stages(*, up_to: str) -> list[Stage]:
    names = [stage.name for stage in SITE_STAGES]
    return SITE_STAGES[: names.index(up_to) + 1]


def _spent(sites: Sequence[SiteSettings], audience: Audience, *, delta: float) -> Spent:
    """By the ledgers of all sites; the worst of them counts."""
    accounts = [Account.read(Ledger(site.ledger)) for site in sites]

    def worst(unit: Unit) -> float | None:
        return _largest(account.epsilon(unit, audience, delta=delta) for account in accounts)

    return Spent(clip=worst("clip"), speaker=worst("speaker"))


def _largest(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else max((value for value in known if value is not None), default=None)
