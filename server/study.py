"""A study as a list of stages: what each takes and gives, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.approval import STAGE as APPROVAL
from moretta.server.stages.approval import wait_for_approval
from moretta.server.stages.audit import audit
from moretta.server.stages.code import STAGE as CODE
from moretta.server.stages.code import federate_code
from moretta.server.stages.context import RunContext
from moretta.server.stages.evaluate import OUTPUTS as EVALUATED
from moretta.server.stages.evaluate import central_check, evaluate
from moretta.server.stages.release import absent_outputs, collect_releases
from moretta.server.stages.report import report
from moretta.server.stages.results import AuditLimits, Results
from moretta.server.stages.train import OUTPUTS, train
from moretta.shared.core.errors import RunError
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import DeploymentPlan


@dataclass
class Run:
    """One run of a study: what its stages share, what they have given so far, and the sites while they take part."""

    context: RunContext
    results: Results = field(default_factory=Results)
    site_grid: SiteGrid | None = None
    """None once the sites' part is over."""
    limits: AuditLimits = field(default_factory=AuditLimits)

    @property
    def grid(self) -> SiteGrid:
        """The connection to the sites.

        Raises:
            RunError: their part of the run is over.
        """
        if self.site_grid is None:
            raise RunError("a stage needs sites after their part was over")
        return self.site_grid


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run. Its work returns how many clips it went through, for a rate, or None."""

    name: str
    work: Callable[[Run], int | None]
    wanted: Callable[[Run], bool] = lambda _: True
    """Whether the study has it."""


def _public(run: Run) -> None:
    context = run.context
    run.results.public |= prepare_public(
        context.study, lambda text: context.notify(stage="public arrays", state="note", what=text)
    )


def _approval(run: Run) -> None:
    run.results.approval = wait_for_approval(run.context, run.grid, run.results.public)


def _code(run: Run) -> None:
    run.results.public, run.results.code_units = federate_code(run.context, run.grid, run.results.public)


def _release(run: Run) -> int:
    results = run.results
    results.releases = collect_releases(run.context, run.grid, results.public, results.approval, results.code_units)
    results.absent |= absent_outputs(run.context, results.releases)
    return results.releases.clips


def _train(kind: ModelKind) -> Callable[[Run], int | None]:
    def work(run: Run) -> int | None:
        results = run.results
        trained = train(run.context, run.grid, results, kind)
        if isinstance(trained, str):
            results.absent.setdefault(OUTPUTS[kind], trained)
            return None
        results.models[kind] = trained
        results.training.trained = (*results.training.trained, kind)
        settings = run.context.study.train
        facts = results.releases.facts
        clips = sum(facts[site].training.get(kind, 0) for site in results.releases.kept)
        return settings.rounds * settings.local_epochs * clips

    return work


def _evaluate(run: Run) -> int:
    results = run.results
    results.evaluation, missing = evaluate(run.context, run.grid, results.releases, results.models, results.absent)
    results.absent |= missing
    counts = results.evaluation.counts
    return sum(int(table.sum()) for output in EVALUATED for table in counts.get(output, {}).values())


def _central_check(run: Run) -> int | None:
    results = run.results
    if "voice" not in results.absent:
        results.central = central_check(run.context, results.releases, results.public)
    return results.central.clips if results.central else None


def _audit(run: Run) -> int | None:
    run.results.attacks = audit(run.context, run.results, run.limits)
    return run.results.releases.clips if run.context.study.audit.enabled else None


def _report(run: Run) -> None:
    run.results.gate = report(run.context, run.results)


SITE_STAGES = [
    Stage("codebook", _public),
    Stage(APPROVAL, _approval, lambda run: isinstance(run.context.plan, DeploymentPlan)),
    Stage(CODE, _code, lambda run: run.context.study.site_training is not None),
    Stage("release", _release),
    Stage("train voice", _train("voice")),
    Stage("train face", _train("face")),
    Stage("train fusion", _train("fusion"), lambda run: run.context.study.fusion.kind == "learned"),
    Stage("evaluate", _evaluate),
]
"""These talk with the sites. A simulation needs no approval: its operator holds the clips."""

CENTRAL_STAGES = [
    Stage("central check", _central_check),
    Stage("audit", _audit),
    Stage("report", _report),
]
"""These need only what the sites have released."""


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
