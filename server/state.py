"""A run on disk, between the stages that need sites and those that need only the server's own desk.

With the sites' part over, Flower and its workers can end before the attackers, which need the memory, begin.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.server.report.schema import EmotionResult, RoundRow, StageRow
from moretta.server.run import Run, SiteRecord
from moretta.shared.atomic import write_atomic
from moretta.shared.errors import ReleaseError
from moretta.shared.plan import SimulationPlan
from moretta.shared.release import open_release

STATE_FILE = Path("server") / "state.json"
_PUBLIC_FILE = Path("server") / "public.safetensors"


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    started: float
    sites: dict[str, SiteRecord]
    released: tuple[str, ...]
    trained: tuple[str, ...]
    rounds: tuple[RoundRow, ...]
    emotion: dict[str, EmotionResult]
    absent: dict[str, str]
    stages: tuple[StageRow, ...]
    warnings: tuple[str, ...]


def save_state(run: Run) -> None:
    """Write what the desk's stages need. The state file comes last: with it the rest is whole."""
    write_atomic(run.folder / _PUBLIC_FILE, save(run.public))
    state = _State(
        started=run.started,
        sites=run.sites,
        released=tuple(sorted(run.releases)),
        trained=run.trained,
        rounds=tuple(run.rounds),
        emotion=run.emotion,
        absent=run.absent,
        stages=tuple(run.stages),
        warnings=tuple(run.warnings),
    )
    write_atomic(run.folder / STATE_FILE, state.model_dump_json(indent=1))


def load_state(folder: Path) -> Run:
    """Read a run back, without its sites.

    Raises:
        StudyError: there is no plan.
        ReleaseError: the state or a release cannot be read.
    """
    plan = SimulationPlan.load(folder)
    try:
        state = _State.model_validate_json((folder / STATE_FILE).read_bytes())
        public = load_file(folder / _PUBLIC_FILE)
    except (OSError, ValidationError, SafetensorError) as error:
        raise ReleaseError(
            f"no usable state of a run in {folder}: {error}",
            expected=f"{STATE_FILE} of a run whose sites have finished",
            fix="start the run again in a new folder",
        ) from error
    return Run(
        folder=folder,
        plan=plan,
        started=state.started,
        sites=state.sites,
        public=public,
        releases={site: open_release(folder / "server" / "releases" / site) for site in state.released},
        trained=state.trained,
        rounds=list(state.rounds),
        emotion=state.emotion,
        absent=state.absent,
        stages=list(state.stages),
        warnings=list(state.warnings),
    )
