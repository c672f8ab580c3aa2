"""The Flower ServerApp: a study as a visible list of stages.

Flower reports a run as completed even if every site failed: the outcome file that is written here is what tells.
"""

from __future__ import annotations

import random
import traceback
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moretta.server.exchange import Exchange
from moretta.server.run import Run, SiteRecord, run_stages, write_outcome
from moretta.server.stages import STAGES
from moretta.shared import wire
from moretta.shared.errors import MorettaError
from moretta.shared.exit_codes import ExitCode
from moretta.shared.plan import SimulationPlan
from moretta.shared.threads import limit_threads
from moretta.shared.versions import code_digest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all stages of the study whose folder the run configuration names, and write the outcome."""
    folder = Path(str(context.run_config["run-dir"]))
    try:
        code = conduct(grid, folder)
    except Exception as error:
        code = error.exit_code if isinstance(error, MorettaError) else ExitCode.INTERNAL
        notes = " ".join(getattr(error, "__notes__", []))
        cause = str(error) if isinstance(error, MorettaError) else f"{type(error).__name__}: {error}"
        (folder / "server").mkdir(parents=True, exist_ok=True)
        (folder / "server" / "server.log").write_text(traceback.format_exc(), encoding="utf-8")
        write_outcome(folder, code=code, stage=notes, cause=cause)
        raise
    write_outcome(folder, code=code)


def conduct(grid: Grid, folder: Path) -> ExitCode:
    """Greet the sites and go through the stages.

    Raises:
        MorettaError: a stage failed.
    """
    limit_threads(1)
    plan = SimulationPlan.load(folder)
    random.seed(plan.study.seed)  # Flower's strategies sample with the global generator
    run = Run(folder=folder, plan=plan, exchange=Exchange(grid, plan.study.train.deadline_seconds))
    run.warnings.extend(plan.warnings)
    for site, content in run.exchange.greet(len(plan.sites)).items():
        run.sites[site] = SiteRecord()
        if wire.from_config(content, "digest") != code_digest():
            run.warn(f"{site} runs another version of Moretta than the server")
    run_stages(run, STAGES)
    return ExitCode.OK if run.gate is None or run.gate.passed else ExitCode.GATE
