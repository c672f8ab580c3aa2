"""The Flower ServerApp: a study as a visible list of stages."""

from __future__ import annotations

import random
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moretta.server.grid.hello import hello_enrolled, hello_virtual
from moretta.server.grid.pending_request import SuperLinkLostError
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.registered import sites_gone
from moretta.server.stages import CENTRAL_STAGES, SITE_STAGES
from moretta.server.stages.outcome import concluding
from moretta.server.stages.run_attempt import only_attempt
from moretta.server.stages.run_context import Run, RunSite, run_stages
from moretta.server.stages.state import load_progress, save_progress, save_state
from moretta.shared.core.errors import RunError
from moretta.shared.core.exit_codes import ExitCode
from moretta.shared.core.printable import log_printable
from moretta.shared.core.threads import limit_threads
from moretta.shared.core.versions import code_digest
from moretta.shared.messages.responses import Hello
from moretta.shared.study.run_plan import DeploymentPlan, load_plan

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the run configuration names, and write the outcome.

    A run that was interrupted goes on after its last whole stage or round. With `desk = "later"` the stages that need
    no site are left to `moretta.server.central_stages`.

    Raises:
        RunError: the run failed; the outcome file has the cause.
        SuperLinkLostError: Flower's SuperLink is gone. A deployment writes no outcome then: it can be submitted again.
    """
    limit_threads(1)
    log_printable()
    folder = Path(str(context.run_config["run-dir"]))
    attempt = int(str(context.run_config.get("attempt", 0)))
    real = isinstance(load_plan(folder), DeploymentPlan)
    with only_attempt(folder, attempt), concluding(folder, but_for=(SuperLinkLostError,) if real else ()) as ending:
        run = _connected(grid, folder)
        run_stages(run, SITE_STAGES, after_each=save_progress)
        save_state(run)
        ending.finished = context.run_config.get("desk") != "later"
        if ending.finished:
            run_stages(run, CENTRAL_STAGES)
            ending.gate_passed = run.gate is None or run.gate.passed
    if ending.code not in (ExitCode.OK, ExitCode.GATE):
        raise RunError(f"the run failed with exit code {int(ending.code)}", fix="see outcome.json")


def _connected(grid: Grid, folder: Path) -> Run:
    """The run, new or as far as it had come, with its sites greeted."""
    run = load_progress(folder)
    if run is None:
        plan = load_plan(folder)
        run = Run(folder=folder, plan=plan)
        run.warnings.extend(plan.warnings)
    else:
        run.notify(stage="the run", state="resumed", after=run.whereabouts)
        run.warn(f"the server's part was interrupted and went on after {run.whereabouts}")
    connect(run, grid)
    return run


def connect(run: Run, grid: Grid) -> None:
    """Greet the sites of a run, and note what they say of themselves.

    Raises:
        RunError: too few of them came or answered.
    """
    random.seed(run.study.seed)  # Flower's strategies sample with the global generator
    hellos = _hello(run, grid)
    for site, hello in hellos.items():
        run.sites.setdefault(site, RunSite())
        if hello.digest != code_digest():
            run.warn(f"{site} runs another version of Moretta than the server")


def _hello(run: Run, grid: Grid) -> dict[str, Hello]:
    plan = run.plan
    run.connection = SiteGrid(grid, run.study.train.deadline_seconds, on_lost_site=run.study.stages.on_lost_site)
    if not isinstance(plan, DeploymentPlan):
        return hello_virtual(run.connection, len(plan.sites))
    run.connection.gone = sites_gone(plan)
    run.connection.note = lambda text: run.notify(stage="sites", state="note", what=text)
    taking_part = {s.node: s.name for s in plan.sites if not run.done or s.name in run.sites}
    with run.timed("wait for sites"):
        return hello_enrolled(
            run.connection,
            taking_part,
            wait_seconds=run.study.stages.wait_seconds,
            min_sites=run.study.train.min_sites,
            left_out=lambda site, why: _left_out(run, site, why),
            seen=lambda here, all_: run.notify(stage="wait for sites", state="step", done=here, total=all_),
        )


def _left_out(run: Run, site: str, why: str) -> None:
    run.warn(f"{site} took no part: {why}")
    run.miss(site, "the start" if not run.done else f"what followed {run.whereabouts}", why, lost=True)
