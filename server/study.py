"""A study as a list of stages: what each takes and gives, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from moretta.server.stages.approval import STAGE as APPROVAL
from moretta.server.stages.approval import wait_for_approval
from moretta.server.stages.audit import audit
from moretta.server.stages.evaluate import OUTPUTS as EVALUATED
from moretta.server.stages.evaluate import central_check, evaluate
from moretta.server.stages.public_start import STAGE as PUBLIC_START
from moretta.server.stages.public_start import train_on_public, with_test
from moretta.server.stages.release import absent_outputs, collect_releases
from moretta.server.stages.report import report
from moretta.server.stages.run import Run
from moretta.server.stages.site_attacks import STAGE as ATTACKS_AT_SITES
from moretta.server.stages.site_attacks import attack_at_sites
from moretta.server.stages.state import save_round
from moretta.server.stages.train import CODE_STAGE, OUTPUTS, federate_code, train
from moretta.shared.audit.site_attacks import learn
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.sections import ModelKind


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run. Its work returns how many clips it went through, for a rate, or None."""

    name: str
    work: Callable[[Run], int | None]
    wanted: Callable[[Run], bool] = lambda _: True
    """Whether the study has it."""


def _public(run: Run) -> None:
    notify = partial(run.context.notify, stage="public arrays", state="note")
    run.public |= prepare_public(run.context.study, lambda text: notify(what=text))


def _approval(run: Run) -> None:
    run.approval = wait_for_approval(run.context, run.grid, run.public | learn(run.context.study))


def _code(run: Run) -> None:
    run.public, run.code_units = federate_code(run.context, run.grid, run.public)


def _train_on_public(run: Run) -> None:
    run.training.public_start = train_on_public(run.context, run.public)


def _release(run: Run) -> int:
    run.releases = collect_releases(run.context, run.grid, run.public, run.approval, run.code_units)
    run.absent |= absent_outputs(run.context, run.releases)
    return run.releases.clips


def _train(run: Run, kind: ModelKind) -> int | None:
    trained = train(
        run.context,
        run.grid,
        kind,
        releases=run.releases,
        public=run.public,
        models=run.models,
        absent=run.absent,
        training=run.training,
        save_round=partial(save_round, run, kind),
    )
    if isinstance(trained, str):
        run.absent.setdefault(OUTPUTS[kind], trained)
        return None
    run.models[kind] = trained
    run.training.trained = (*run.training.trained, kind)
    clips = sum(run.releases.facts[site].training.get(kind, 0) for site in run.releases.kept)
    return run.context.study.train.rounds * run.context.study.train.local_epochs * clips


def _evaluate(run: Run) -> int:
    run.evaluation, missing = evaluate(run.context, run.grid, run.releases, run.models, run.absent)
    run.absent |= missing
    run.training.public_start = with_test(run.context, run.releases, run.public, run.training.public_start)
    counts = run.evaluation.counts
    return sum(int(table.sum()) for output in EVALUATED for table in counts.get(output, {}).values())


def _attacks_at_sites(run: Run) -> None:
    attack_at_sites(run.context, run.grid, run.releases, run.approval)


def _wants_attacks_at_sites(run: Run) -> bool:
    audit_ = run.context.study.audit
    return isinstance(run.context.plan, DeploymentPlan) and audit_.enabled and bool(audit_.at_sites)


def _central_check(run: Run) -> int | None:
    if "voice" not in run.absent:
        run.central = central_check(run.context, run.releases, run.public)
    return run.central.clips if run.central else None


def _audit(run: Run) -> int | None:
    run.attacks = audit(run.context, run.releases, run.public, run.training.trained, limits=run.limits)
    return run.releases.clips if run.context.study.audit.enabled else None


def _report(run: Run) -> None:
    run.gate = report(
        run.context,
        run.releases,
        run.training,
        scores=run.evaluation.emotion,
        absent=run.absent,
        central=run.central,
        attacks=run.attacks,
    )


SITE_STAGES = [
    Stage("codebook", _public),
    Stage(APPROVAL, _approval, lambda run: isinstance(run.context.plan, DeploymentPlan)),
    Stage(CODE_STAGE, _code, lambda run: run.context.study.site_training is not None),
    Stage(PUBLIC_START, _train_on_public, lambda run: run.context.study.train.public is not None),
    Stage("release", _release),
    Stage("train voice", partial(_train, kind="voice")),
    Stage("train face", partial(_train, kind="face")),
    Stage("train fusion", partial(_train, kind="fusion"), lambda run: run.context.study.fusion.kind == "learned"),
    Stage("evaluate", _evaluate),
    Stage(ATTACKS_AT_SITES, _attacks_at_sites, _wants_attacks_at_sites),
]
"""Stages that need the sites. A simulation needs no approval: its operator holds the clips."""
CENTRAL_STAGES = [Stage("central check", _central_check), Stage("audit", _audit), Stage("report", _report)]
"""Stages that need only the sites' releases."""


def run_stages(run: Run, stages: list[Stage], *, after_each: Callable[[Run], None] | None = None) -> None:
    """Run stages in order, but for those that are over; an error stops the run and carries the stage's name."""
    for stage in stages:
        if stage.name in run.context.progress.done or not stage.wanted(run):
            continue
        with run.context.timed(stage.name) as counts:
            try:
                clips = stage.work(run)
            except Exception as error:
                error.add_note(f"in the stage {stage.name!r}")
                raise
            if clips is not None:
                counts["clips"] = clips
        run.context.progress.done.append(stage.name)
        if after_each is not None:
            after_each(run)
