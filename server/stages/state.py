"""A run on disk: between the stages that need sites and those that need only the server's own desk, and on the way.

With the sites' part over, Flower and its workers can end before the attackers, which need the memory, begin. Until
then the same state, written after every stage and every round, is what a run goes on from after a crash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.server.stages.run_context import Run, RunSite
from moretta.shared.audit.report.report_schema import EmotionResult, RoundRow, StageRow
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.release import open_release
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import load_plan

STATE_FILE = Path("server") / "state.json"
"""There only when the sites' part is over."""
RESUME_FILE = Path("server") / "resume.json"
"""How far the sites' part has come."""
_PUBLIC_FILE = Path("server") / "public.safetensors"
_MEMORY = "strategy:"
"""Prefix of what a strategy remembers, in a round's checkpoint."""
Arrays = dict[str, npt.NDArray[Any]]


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    started: float
    sites: dict[str, RunSite]
    released: tuple[str, ...]
    trained: tuple[str, ...]
    rounds: tuple[RoundRow, ...]
    emotion: dict[str, EmotionResult]
    absent: dict[str, str]
    stages: tuple[StageRow, ...]
    warnings: tuple[str, ...]
    done: tuple[str, ...]
    last_round: dict[ModelKind, int]
    approval: str = ""
    offered: dict[str, str] = {}


def save_state(run: Run, file: Path = STATE_FILE) -> None:
    """Write what the stages that follow need. The state file comes last: with it the rest is whole."""
    write_atomic(run.folder / _PUBLIC_FILE, save(run.public))
    _write_state(run, file)


def save_progress(run: Run) -> None:
    """Write how far the sites' part has come, after a stage."""
    save_state(run, RESUME_FILE)


def save_round(run: Run, kind: ModelKind, number: int, weights: Arrays, memory: Arrays) -> None:
    """Checkpoint one round: weights, what the strategy remembers, and all that the run knows.

    The state names the round whose file holds: a crash between the two leaves the round before.
    """
    content = weights | {f"{_MEMORY}{name}": array for name, array in memory.items()}
    before = run.last_round.get(kind)
    write_atomic(run.round_checkpoint(kind, number), save(content))
    run.last_round[kind] = number
    _write_state(run, RESUME_FILE)
    if before is not None and before != number:
        run.round_checkpoint(kind, before).unlink(missing_ok=True)


def load_round(run: Run, kind: ModelKind) -> tuple[Arrays, Arrays]:
    """Weights after the last checkpointed round, and what the strategy remembered.

    Raises:
        ReleaseError: they cannot be read.
    """
    path = run.round_checkpoint(kind, run.last_round[kind])
    content = _arrays(path)
    weights = {name: array for name, array in content.items() if not name.startswith(_MEMORY)}
    memory = {name.removeprefix(_MEMORY): array for name, array in content.items() if name.startswith(_MEMORY)}
    return weights, memory


def load_state(folder: Path, file: Path = STATE_FILE) -> Run:
    """Read a run back, without its sites.

    Raises:
        StudyError: there is no plan.
        ReleaseError: the state or a release cannot be read.
    """
    plan = load_plan(folder)
    try:
        state = _State.model_validate_json((folder / file).read_bytes())
    except (OSError, ValidationError) as error:
        raise _unusable(folder, file, error) from error
    run = Run(
        folder=folder,
        plan=plan,
        started=state.started,
        sites=state.sites,
        public=_arrays(folder / _PUBLIC_FILE),
        releases={site: open_release(folder / "server" / "releases" / site) for site in state.released},
        trained=state.trained,
        rounds=list(state.rounds),
        emotion=state.emotion,
        absent=state.absent,
        stages=list(state.stages),
        warnings=list(state.warnings),
        done=list(state.done),
        last_round=state.last_round,
        approval=state.approval,
        offered=state.offered,
    )
    if file == RESUME_FILE:
        run.weights = {m: _arrays(run.checkpoint(m)) for m in plan.study.models if m in state.trained}
    return run


def load_progress(folder: Path) -> Run | None:
    """The run as it was when the sites' part was last interrupted; None if it has not come that far.

    Raises:
        ReleaseError: what is there cannot be read.
    """
    return load_state(folder, RESUME_FILE) if (folder / RESUME_FILE).exists() else None


def _write_state(run: Run, file: Path) -> None:
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
        done=tuple(run.done),
        last_round=run.last_round,
        approval=run.approval,
        offered=run.offered,
    )
    write_atomic(run.folder / file, state.model_dump_json(indent=1))


def _arrays(path: Path) -> Arrays:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _unusable(path.parent, Path(path.name), error) from error


def _unusable(folder: Path, file: Path, error: Exception) -> ReleaseError:
    return ReleaseError(
        f"no usable state of a run in {folder}: {error}",
        expected=f"{file} of a run whose sites have finished" if file == STATE_FILE else f"a whole {file}",
        fix="start the run again in a new folder",
    )
