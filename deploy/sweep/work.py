"""One job of a sweep, done with the stages, the grid and the sites of a simulation."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moretta.client.accounting.account import Account, Audience, Unit
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.stored_state import take_over_release
from moretta.client.settings import SiteSettings, simulated_site
from moretta.deploy.runtime.simulation import connect_locally
from moretta.deploy.sweep.jobs import Job, folder_of
from moretta.deploy.sweep.sweep_results import CellAudit, Released, ResultFolder, Spent, Studied, Trained, if_all_known
from moretta.server.stages.audit import TOO_FEW, audit, can_be_attacked
from moretta.server.stages.report import privacy_rows
from moretta.server.stages.run import AuditLimits, Run, RunContext
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES, run_stages
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.report.report_schema import Record
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.errors import CorpusError, RunError
from moretta.shared.core.labels import in_order
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import picture_seconds, sound_seconds

_STAGES = [stage.name for stage in SITE_STAGES]
_RELEASE = _STAGES.index("release")


def do(job: Job, out: Path) -> None:
    """Do a job and keep its result. Remains of an earlier attempt are removed first."""
    folder = folder_of(out, job)
    shutil.rmtree(folder, ignore_errors=True)
    work = {"release": _release, "audit": _audit, "train": _train, "study": _study}[job.kind]
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
    releases, limits = before.releases, AuditLimits(workers=1, embeddings=out / "embeddings")
    not_run: dict[str, str] = {m: TOO_FEW for m in releases.modalities if not can_be_attacked(releases, m)}
    found = audit(RunContext(folder, job.plan), releases, before.public, (), limits=limits)
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


def _study(job: Job, folder: Path, out: Path) -> Record:
    run = _started(job, folder)
    run.limits = AuditLimits(workers=1, embeddings=out / "embeddings")
    run_stages(run, [*SITE_STAGES, *(stage for stage in CENTRAL_STAGES if stage.name == "audit")])
    study, plan = job.plan.study, job.plan
    clips = read_corpus(plan.corpus, labels=study.labels, classes=study.classes).clips
    (modality,) = study.modalities
    voted, not_voted = _voted(run, modality)
    first = min(run.releases.kept.items())[1].anonymizer(modality)
    sites = [simulated_site(folder, number) for number in range(len(plan.sites))]
    return Studied(
        rows=tuple(run.attacks.identity),
        utility=tuple(run.attacks.utility),
        not_run={} if can_be_attacked(run.releases, modality) else {modality: TOO_FEW},
        inference=tuple(run.attacks.inference),
        voted=voted,
        not_voted=not_voted,
        parameters=first.parameters if first else {},
        releases=_spent(sites, "server", delta=study.privacy.delta),
        seconds={stage.name: stage.seconds for stage in run.context.progress.stages},
        clip_seconds=sum(map(sound_seconds if modality == "voice" else picture_seconds, clips)),
        clips=run.releases.clips,
    )


def _voted(run: Run, modality: Modality) -> tuple[tuple[Result, ...], str]:
    """Utility of the same releases where the votes stand for the labels; or why that cannot be said."""
    study, originals = run.context.study, run.context.plan.originals()
    if originals is None:
        return (), "the originals never left their sites"
    try:
        corpus = read_corpus(originals.corpus, labels="vote", classes=study.classes)
    except CorpusError as error:
        return (), error.found.replace(str(originals.corpus), "the corpus")
    original = ClipSet.from_corpus(corpus, modality, originals.keys, classes=study.classes)
    kept = [release for _, release in sorted(run.releases.kept.items())]
    vote = {clip.clip: clip.emotion for clip in original.clips}
    released = ClipSet.from_releases(kept, modality, classes=study.classes).among(original)
    clips = tuple(clip.model_copy(update={"emotion": vote[clip.clip]}) for clip in released.clips)
    with tempfile.TemporaryDirectory(prefix="moretta-votes-") as scratch:
        found = evaluate_utility(
            original.among(released),
            replace(released, clips=clips),
            more=study.audit.evaluators,
            seed=derive(study.seed, "judges", modality),
            sentences=study.audit.sentences,
            workers=1,
            scratch=Path(scratch),
        )
    return tuple(found), ""


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
    """Epsilon of a clip and of a speaker by the ledgers, at the worst site."""
    accounts = [Account.read(Ledger(site.ledger)) for site in sites]

    def worst(unit: Unit) -> float | None:
        return if_all_known(max, (account.epsilon(unit, audience, delta=delta) for account in accounts))

    return Spent(clip=worst("clip"), speaker=worst("speaker"))
