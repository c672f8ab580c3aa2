"""A study as a list of stages, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from moretta.server.stages.approval import STAGE as APPROVAL
from moretta.server.stages.approval import wait_for_approval
from moretta.server.stages.audit import audit
from moretta.server.stages.evaluate import central_check, evaluate
from moretta.server.stages.release import collect_releases
from moretta.server.stages.report import report
from moretta.server.stages.run import Run
from moretta.server.stages.train import CODE_STAGE, federate_code, train
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.run_plan import DeploymentPlan


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run. Its work returns how many clips it went through, for a rate, or None."""

    name: str
    work: Callable[[Run], int | None]
    wanted: Callable[[Run], bool] = lambda _: True
    """Whether the study has it."""


def _prepare_public(run: Run) -> None:
    run.public |= prepare_public(run.study, lambda text: run.notify(stage="public arrays", state="note", what=text))


SITE_STAGES = [
    Stage("codebook", _prepare_public),
    Stage(APPROVAL, wait_for_approval, lambda run: isinstance(run.plan, DeploymentPlan)),
    Stage(CODE_STAGE, federate_code, lambda run: run.study.site_training is not None),
    Stage("release", collect_releases),
    Stage("train voice", partial(train, kind="voice")),
    Stage("train face", partial(train, kind="face")),
    Stage("train fusion", partial(train, kind="fusion"), lambda run: run.study.fusion.kind == "learned"),
    Stage("evaluate", evaluate),
]
"""These need the sites. A simulation needs no approval: its operator holds the clips."""

CENTRAL_STAGES = [
    Stage("central check", central_check),
    Stage("audit", audit),
    Stage("report", report),
]
"""These need only what the sites have released."""


def run_stages(run: Run, stages: list[Stage], *, after_each: Callable[[Run], None] | None = None) -> None:
    """Run stages in order, but for those that are over; an error stops the run and carries the stage's name."""
    for stage in stages:
        if stage.name in run.progress.done or not stage.wanted(run):
            continue
        with run.timed(stage.name) as counts:
            try:
                clips = stage.work(run)
            except Exception as error:
                error.add_note(f"in the stage {stage.name!r}")
                raise
            if clips is not None:
                counts["clips"] = clips
        run.progress.done.append(stage.name)
        if after_each is not None:
            after_each(run)
