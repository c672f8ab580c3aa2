"""A study as a list of stages, the Flower ServerApp that runs them, and `python -m moretta.server.app RUN`.

The latter runs the stages that need no site, alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moretta.server.grid.hello import connect
from moretta.server.grid.site_grid import SuperLinkLostError
from moretta.server.stages.approval import STAGE as APPROVAL
from moretta.server.stages.approval import wait_for_approval
from moretta.server.stages.audit import audit
from moretta.server.stages.evaluate import central_check, evaluate
from moretta.server.stages.lifecycle import Ending, concluding, only_attempt
from moretta.server.stages.release import collect_releases
from moretta.server.stages.report import report
from moretta.server.stages.run import Run
from moretta.server.stages.state import RESUME_FILE, load_progress, load_state, save_state
from moretta.server.stages.train import CODE_STAGE, federate_code, train
from moretta.shared.core.errors import ExitCode, RunError
from moretta.shared.core.printable import set_up_logging, use_run_id
from moretta.shared.core.workers import limit_threads
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.run_plan import DeploymentPlan, load_plan

app = ServerApp()


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
CENTRAL_STAGES = [Stage("central check", central_check), Stage("audit", audit), Stage("report", report)]
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


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the run configuration names, and write the outcome.

    A run that was interrupted goes on after its last whole stage or round. With `central-stages = "later"` the stages
    that need no site are left to another process, see `run_central_stages`.

    Raises:
        RunError: the run failed; the outcome file has the cause.
        SuperLinkLostError: Flower's SuperLink is gone. A deployment writes no outcome then: it can be submitted again.
    """
    limit_threads(1)
    set_up_logging()
    use_run_id(context.run_id)
    folder = Path(str(context.run_config["run-dir"]))
    attempt = int(str(context.run_config.get("attempt", 0)))
    real = isinstance(load_plan(folder), DeploymentPlan)
    with only_attempt(folder, attempt), concluding(folder, but_for=(SuperLinkLostError,) if real else ()) as ending:
        run = _opened(folder)
        connect(run, grid)
        run_stages(run, SITE_STAGES, after_each=lambda run: save_state(run, RESUME_FILE))
        save_state(run)
        ending.finished = context.run_config.get("central-stages") != "later"
        if ending.finished:
            _run_central(run, ending)
    if ending.code not in (ExitCode.OK, ExitCode.GATE):
        raise RunError(f"the run failed with exit code {int(ending.code)}", fix="see outcome.json")


def run_central_stages(folder: Path) -> int:
    """Run the stages that need no site, and write the outcome; returns the exit code."""
    limit_threads(1)
    with concluding(folder) as ending:
        _run_central(load_state(folder), ending)
    return int(ending.code)


def _run_central(run: Run, ending: Ending) -> None:
    run_stages(run, CENTRAL_STAGES)
    ending.gate_passed = run.gate is None or run.gate.passed


def _opened(folder: Path) -> Run:
    """The run, new or as far as it had come."""
    run = load_progress(folder)
    if run is None:
        run = Run(folder, load_plan(folder))
        run.progress.warnings.extend(run.plan.warnings)
        return run
    position = run.progress.position
    run.notify(stage="the run", state="resumed", after=position)
    run.warn(f"the server's part was interrupted and went on after {position}")
    return run


if __name__ == "__main__":
    code = run_central_stages(Path(sys.argv[1]))
    gc.freeze()  # Python would look through all of torch for garbage once more
    sys.exit(code)
