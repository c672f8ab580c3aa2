"""The Flower ServerApp: a study as a visible list of stages."""

from __future__ import annotations

import random
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moretta.server.exchange import Exchange
from moretta.server.outcome import concluding
from moretta.server.run import Run, SiteRecord, run_stages
from moretta.server.stages import DESK_STAGES, SITE_STAGES
from moretta.server.state import save_state
from moretta.shared import wire
from moretta.shared.errors import RunError
from moretta.shared.exit_codes import ExitCode
from moretta.shared.plan import SimulationPlan
from moretta.shared.threads import limit_threads
from moretta.shared.versions import code_digest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the run configuration names, and write the outcome.

    With `desk = "later"` the stages that need no site are left to `moretta.server.desk`.

    Raises:
        RunError: the run failed; the outcome file has the cause.
    """
    limit_threads(1)
    folder = Path(str(context.run_config["run-dir"]))
    with concluding(folder) as ending:
        run = _greeted(grid, folder)
        run_stages(run, SITE_STAGES)
        save_state(run)
        ending.finished = context.run_config.get("desk") != "later"
        if ending.finished:
            run_stages(run, DESK_STAGES)
            ending.gate_passed = run.gate is None or run.gate.passed
    if ending.code not in (ExitCode.OK, ExitCode.GATE):
        raise RunError(f"the run failed with exit code {int(ending.code)}", fix="see outcome.json")


def _greeted(grid: Grid, folder: Path) -> Run:
    plan = SimulationPlan.load(folder)
    random.seed(plan.study.seed)  # Flower's strategies sample with the global generator
    run = Run(folder=folder, plan=plan, connection=Exchange(grid, plan.study.train.deadline_seconds))
    run.warnings.extend(plan.warnings)
    for site, content in run.exchange.greet(len(plan.sites)).items():
        run.sites[site] = SiteRecord()
        if wire.from_config(content, "digest") != code_digest():
            run.warn(f"{site} runs another version of Moretta than the server")
    return run
