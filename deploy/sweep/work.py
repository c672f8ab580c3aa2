"""One job of a sweep, done with the stages, the grid and the sites of a simulation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from moretta.client.accounting.account import Account, Audience, Unit
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.stored_state import take_over_release
from moretta.client.settings import SiteSettings, simulated_site
from moretta.deploy.runtime.simulation import connect_locally
from moretta.deploy.sweep.jobs import Job, folder_of
from moretta.deploy.sweep.sweep_results import CellAudit, Released, ResultFolder, Spent, Trained, if_all_known
from moretta.server.stages.audit import TOO_FEW, audit, can_be_attacked
from moretta.server.stages.report import privacy_rows
from moretta.server.stages.run import AuditLimits, Run, RunContext
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.study import SITE_STAGES, run_stages
from moretta.shared.audit.report.report_schema import Record
from moretta.shared.core.errors import RunError
from moretta.shared.core.labels import in_order

_STAGES = [stage.name for stage in SITE_STAGES]
_RELEASE = _STAGES.index("release")


def do(job: Job, out: Path) -> None:
    """Do a job and keep its result. What an earlier attempt left of it is thrown away first."""
    folder = folder_of(out, job)
    shutil.rmtree(folder, ignore_errors=True)
    work = {"release": _release, "audit": _audit, "train": _train}[job.kind]
    ResultFolder(out).keep(job, work(job, folder, out))
    if job.kind != "release":
        shutil.rmtree(folder, ignore_errors=True)


def _release(job: Job, folder: Path, out: Path) -> Record:
    del out
    run = _started(job, folder)
    run_stages(run, SITE_STAGES[: _RELEASE + 1])
    save_state(run, RESUME_FILE)
    return Released(privacy=tuple(privacy_rows(run.context, run.releases, run.training)))


def _audit(job: Job, folder: Path, out: Path) -> Record:
    before = _made(out, job)
    job.plan.save(folder)
    present = [m for m in job.plan.study.modalities if m not in before.absent]
    not_run: dict[str, str] = {m: TOO_FEW for m in present if not can_be_attacked(before.releases, m)}
    limits = AuditLimits(workers=1, embeddings=out / "embeddings")
    context, absent = RunContext(folder, job.plan), before.absent | not_run
    found = audit(context, before.releases, before.public, (), absent, limits=limits)
    return CellAudit(rows=tuple(found.identity), utility=tuple(found.utility), not_run=not_run)


def _train(job: Job, folder: Path, out: Path) -> Record:
    before = _made(out, job)
    job.plan.save(folder)
    sites = [simulated_site(folder, number) for number in range(len(job.plan.sites))]
    for number, site in enumerate(sites):
        take_over_release(simulated_site(before.context.folder, number), before.context.study, site, job.plan.study)
    run = _started(job, folder)
    run.public, run.context.progress.done[:] = before.public, _STAGES[:_RELEASE]
    run_stages(run, SITE_STAGES)
    evaluation = run.evaluation
    keys = job.plan.pseudonym_keys()
    return Trained(
        emotion=evaluation.emotion,
        counts={o: {s: table.tolist() for s, table in tables.items()} for o, tables in evaluation.counts.items()},
        numbers={keys[number].speaker(number): number for number in in_order(job.plan.test_speakers)},
        privacy=tuple(privacy_rows(run.context, run.releases, run.training)),
        releases=_spent(sites, "server", delta=job.plan.study.privacy.delta),
        models=_spent(sites, "model", delta=job.plan.study.privacy.delta),
    )


def _started(job: Job, folder: Path) -> Run:
    job.plan.save(folder)
    run = Run(RunContext(folder, job.plan))
    connect_locally(run, len(job.plan.sites))
    return run


def _made(out: Path, job: Job) -> Run:
    """The run that made a release, with what its sites reported."""
    folder = out / "releases" / job.release
    run = load_progress(folder)
    if run is None:
        raise RunError(f"no release in {folder}", fix="run the sweep again: it is made then")
    return run


def _spent(sites: Sequence[SiteSettings], audience: Audience, *, delta: float) -> Spent:
    """By the ledgers of all sites; the worst of them counts."""
    accounts = [Account.read(Ledger(site.ledger)) for site in sites]

    def worst(unit: Unit) -> float | None:
        return if_all_known(max, (account.epsilon(unit, audience, delta=delta) for account in accounts))

    return Spent(clip=worst("clip"), speaker=worst("speaker"))
