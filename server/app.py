"""The Flower ServerApp, and `python -m moretta.server.app RUN`, which runs the stages that need no site alone."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moretta.server.grid.hello import connect
from moretta.server.grid.site_grid import SuperLinkLostError
from moretta.server.stages.lifecycle import Ending, concluding, only_attempt
from moretta.server.stages.run import Run, RunContext
from moretta.server.stages.state import RESUME_FILE, STATE_FILE, load_progress, load_state, save_state
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES, run_stages
from moretta.shared.audit.run_attacks import keeping
from moretta.shared.core.errors import ExitCode, RunError
from moretta.shared.core.printable import set_up_logging, use_run_id
from moretta.shared.core.workers import limit_threads
from moretta.shared.study.run_plan import DeploymentPlan, load_plan

app = ServerApp()


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
        run.site_grid = connect(run.context, grid)
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
    """Attacks that were done before an interruption are used again, as long as nobody has withdrawn since."""
    folder = run.context.folder
    with keeping(folder / "server" / "attacks", (folder / STATE_FILE).read_text(encoding="utf-8")):
        run_stages(run, CENTRAL_STAGES)
    ending.gate_passed = run.gate is None or run.gate.passed


def _opened(folder: Path) -> Run:
    """The run, new or as far as it had come."""
    run = load_progress(folder)
    if run is None:
        run = Run(RunContext(folder, load_plan(folder)))
        run.context.progress.warnings.extend(run.context.plan.warnings)
        return run
    position = run.context.progress.position
    run.context.notify(stage="the run", state="resumed", after=position)
    run.context.warn(f"the server's part was interrupted and went on after {position}")
    return run


if __name__ == "__main__":
    code = run_central_stages(Path(sys.argv[1]))
    gc.freeze()  # Python would look through all of torch for garbage once more
    sys.exit(code)
