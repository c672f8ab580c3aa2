"""One stage of a study by itself, for tests of the server's stages."""

from __future__ import annotations

from moretta.server.stages.run import Run
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES


def do(run: Run, name: str) -> Run:
    """Run the stage of this name, even if it is over."""
    next(stage for stage in (*SITE_STAGES, *CENTRAL_STAGES) if stage.name == name).work(run)
    return run


def warnings_of(run: Run) -> list[str]:
    """Of the report, so far."""
    return run.context.progress.warnings
