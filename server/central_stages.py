"""`python -m moretta.server.central_stages RUN`: the stages that need no site, in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

from moretta.server.stages import CENTRAL_STAGES
from moretta.server.stages.outcome import concluding
from moretta.server.stages.run_context import run_stages
from moretta.server.stages.state import load_state
from moretta.shared.core.threads import limit_threads


def main(folder: Path) -> int:
    """Run the desk's stages of a run and write the outcome; returns the exit code."""
    limit_threads(1)
    with concluding(folder) as ending:
        run = load_state(folder)
        run_stages(run, CENTRAL_STAGES)
        ending.gate_passed = run.gate is None or run.gate.passed
    return int(ending.code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
