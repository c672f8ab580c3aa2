"""A run on disk: written after every stage and every round, it is what a run goes on from after a crash.

With the sites' part over, Flower and its workers can end before the attackers, which need the memory, begin.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.server.stages.run import (
    Approval,
    Arrays,
    EmotionScores,
    Progress,
    Releases,
    Run,
    RunContext,
    SiteFacts,
    Training,
)
from moretta.shared.audit.report.report_schema import EmotionResult
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.release import open_release
from moretta.shared.study.run_plan import load_plan
from moretta.shared.study.sections import ModelKind

STATE_FILE = Path("server") / "state.json"
"""State file, which exists only when the sites' part is over."""
RESUME_FILE = Path("server") / "resume.json"
"""How far the sites' part has come."""
_PUBLIC_FILE = Path("server") / "public.safetensors"
_SHARED = ("approval", "code_units", "absent", "training")
"""Fields that a state and its run have in common."""
_STRATEGY = "strategy:"
"""Prefix of the strategy's state in a round's checkpoint."""


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    progress: Progress
    approval: Approval
    code_units: dict[str, int]
    facts: dict[str, SiteFacts]
    released: tuple[str, ...]
    absent: dict[str, str]
    training: Training
    emotion: dict[str, EmotionResult]


def save_state(run: Run, file: Path = STATE_FILE) -> None:
    """Write what the stages that follow need. The state file comes last: with it the rest is whole."""
    write_atomic(run.context.folder / _PUBLIC_FILE, save(run.public))
    _write(run, file)


def save_round(run: Run, kind: ModelKind, number: int, weights: Arrays, strategy: Arrays) -> None:
    """Checkpoint one round: weights, the strategy's state, and all that the run knows.

    The state names the round whose file holds: a crash between the two leaves the round before.
    """
    before = run.context.progress.last_round.get(kind)
    content = weights | {f"{_STRATEGY}{name}": array for name, array in strategy.items()}
    write_atomic(run.context.checkpoint(kind, number), save(content))
    run.context.progress.last_round[kind] = number
    _write(run, RESUME_FILE)
    if before is not None and before != number:
        run.context.checkpoint(kind, before).unlink(missing_ok=True)


def load_round(context: RunContext, kind: ModelKind) -> tuple[Arrays, Arrays]:
    """Weights after the last checkpointed round, and the strategy's state then."""
    content = _arrays(context.checkpoint(kind, context.progress.last_round[kind]))
    weights = {name: array for name, array in content.items() if not name.startswith(_STRATEGY)}
    return weights, {name.removeprefix(_STRATEGY): content[name] for name in content.keys() - weights.keys()}


def load_state(folder: Path, file: Path = STATE_FILE) -> Run:
    """Read a run back; raises StudyError without a plan, ReleaseError where state or a release cannot be read."""
    plan = load_plan(folder)
    try:
        state = _State.model_validate_json((folder / file).read_bytes())
    except (OSError, ValidationError) as error:
        raise _unusable(folder, file, error) from error
    kept = {site: open_release(folder / "server" / "releases" / site) for site in state.released}
    run = Run(RunContext(folder, plan, state.progress), **{name: getattr(state, name) for name in _SHARED})
    run.public = _arrays(folder / _PUBLIC_FILE)
    for modality in state.training.public_start:
        _arrays(run.context.public_start(modality))  # membership would be attacked as if training began at the seed
    run.releases, run.evaluation = Releases(kept, state.facts), EmotionScores(state.emotion)
    if file == RESUME_FILE:
        run.models = {m: _arrays(run.context.checkpoint(m)) for m in state.training.trained}
    return run


def load_progress(folder: Path) -> Run | None:
    """The run as it was when the sites' part was last interrupted; None if it has not come that far."""
    return load_state(folder, RESUME_FILE) if (folder / RESUME_FILE).exists() else None


def _write(run: Run, file: Path) -> None:
    state = _State(
        progress=run.context.progress,
        **{name: getattr(run, name) for name in _SHARED},
        facts=run.releases.facts,
        released=tuple(sorted(run.releases.kept)),
        emotion=run.evaluation.emotion,
    )
    write_atomic(run.context.folder / file, state.model_dump_json(indent=1))


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
