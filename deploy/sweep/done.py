"""What is done: one file for each finished piece of work, whole or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from moretta.deploy.sweep.jobs import Job
from moretta.shared.audit.report.report_schema import EmotionResult, PrivacyRow
from moretta.shared.audit.result import Result
from moretta.shared.core.atomic import write_atomic


class Done(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seconds: float = 0.0


class Released(Done):
    """What sites released, and what they said of it."""

    privacy: tuple[PrivacyRow, ...]
    clips: int
    speakers: int
    warnings: tuple[str, ...] = ()


class CellAudit(Done):
    """What attackers and judges found."""

    rows: tuple[Result, ...]
    utility: tuple[Result, ...]
    not_run: dict[str, str] = {}
    """By modality, why nobody could be asked."""
    warnings: tuple[str, ...] = ()


class Spent(BaseModel):
    """Epsilon for the clip and the speaker that lost most, at the worst site; None is no finite guarantee."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    clip: float | None
    speaker: float | None


class Trained(Done):
    """What a model trained without one fold recognises in it, and what it has cost."""

    emotion: dict[str, EmotionResult]
    counts: dict[str, dict[str, list[list[int]]]]
    """By output and pseudonymous speaker: [true class, predicted class]."""
    numbers: dict[str, int]
    """Pseudonym to the speaker's number in the corpus: another seed gives another pseudonym. Stays on this machine."""
    absent: dict[str, str]
    privacy: tuple[PrivacyRow, ...]
    releases: Spent
    """By the ledgers: what has left the sites."""
    models: Spent
    """By the ledgers: what the trained models tell."""
    warnings: tuple[str, ...] = ()


D = TypeVar("D", bound=Done)
_KINDS: dict[str, type[Done]] = {"release": Released, "audit": CellAudit, "train": Trained}


class ResultFolder:
    """The results of a folder."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "done"

    def keep(self, job: Job, result: Done) -> None:
        """Write a result for its owner alone to read: it names speakers."""
        write_atomic(self._path(job), result.model_dump_json() + "\n", mode=0o600)

    def find(self, job: Job) -> Done | None:
        """The result of a job, None if there is none that can be read: it is made again then."""
        try:
            return _KINDS[job.kind].model_validate_json(self._path(job).read_bytes())
        except (OSError, ValidationError):
            return None

    def get(self, job: Job, kind: type[D]) -> D | None:
        """The same, known to be of one kind."""
        found = self.find(job)
        return found if isinstance(found, kind) else None

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.kind}-{job.key}.json"
