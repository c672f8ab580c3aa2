"""The context that all stages of a run share: its folder, its plan, and its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moretta.shared.audit.report.report_schema import StageRow
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import Plan
from moretta.shared.study.schema import RequestStage, Study

PROGRESS_FILE = "progress.jsonl"
MEMORY_FILE = ".peak-memory"
"""Peak memory of all the run's processes so far, in bytes, kept up to date by the process that watches them."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A stage or a round that one site took no part in."""

    stage: str
    why: str
    round: int | None = None
    """Of training; None for a whole stage."""
    lost: bool = False
    """The site sent nothing; it was not that what it sent could not be used."""


@dataclass
class Progress:
    """How far a run has come, and what its report must mention. It outlives a crash."""

    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    done: list[str] = field(default_factory=list)
    """Names of the stages that are over."""
    last_round: dict[ModelKind, int] = field(default_factory=dict)
    """The last checkpointed round of a model whose training is not over."""
    stages: list[StageRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missed: dict[str, list[Missed]] = field(default_factory=dict)
    """Stages and rounds that each site took no part in; every site that the run has met is a key."""

    @property
    def position(self) -> str:
        """The last thing that is over, as text."""
        if rounds := {m: n for m, n in self.last_round.items() if f"train {m}" not in self.done}:
            kind, number = next(iter(rounds.items()))
            return f"round {number} of training {kind}"
        return f"the stage {self.done[-1]!r}" if self.done else "the start"

    def missed_as_text(self, site: str) -> tuple[str, ...]:
        """Stages that a site took no part in as text, rounds of one stage together."""
        missed = self.missed.get(site, [])
        found = []
        for stage in dict.fromkeys(m.stage for m in missed):
            rounds = [m.round for m in missed if m.stage == stage and m.round is not None]
            found.append(f"{ranges(rounds)} of {stage}" if rounds else stage)
        return tuple(found)


@dataclass(frozen=True)
class RunContext:
    """Folder, plan and progress of one run, with the ways to report."""

    folder: Path
    plan: Plan
    progress: Progress = field(default_factory=Progress)

    @property
    def study(self) -> Study:
        """The study of this run."""
        return self.plan.study

    def checkpoint(self, kind: ModelKind) -> Path:
        """Where a global model is kept."""
        return self.folder / "server" / "checkpoints" / f"{kind}.safetensors"

    def round_checkpoint(self, kind: ModelKind, number: int) -> Path:
        """Where a round's weights are kept until the next round's are, with the state of the strategy."""
        return self.folder / "server" / "checkpoints" / f"{kind}-round-{number:05d}.safetensors"

    def update(self, kind: ModelKind, site: str) -> Path:
        """Where a site's update of the last round is kept, if the study attacks updates."""
        return self.folder / "server" / "updates" / kind / f"{site}.safetensors"

    def notify(self, **event: Any) -> None:
        """Append one line to the progress file, which those who watch the run read."""
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def warn(self, text: str, *, once_per: str = "") -> None:
        """Add a warning to the report; only one of those that begin with `once_per`."""
        text, known = printable(text), self.progress.warnings
        if text not in known and not (once_per and any(warning.startswith(once_per) for warning in known)):
            known.append(text)

    def miss(self, site: str, stage: str, why: str, *, round_number: int | None = None, lost: bool = False) -> None:
        """Note that a site took no part in a stage or round."""
        self.progress.missed.setdefault(site, []).append(Missed(stage, why, round_number, lost))

    def leave_out(self, failures: Mapping[str, str], stage: str, what: str) -> None:
        """Name sites that failed in a stage, in the report and in what they missed."""
        for site, why in sorted(failures.items()):
            self.warn(f"{site} {what}: {why}")
            self.miss(site, stage, why)

    def require_sites(
        self, left: Collection[str], there: int, stage: RequestStage, failures: Mapping[str, str]
    ) -> None:
        """Fail the run if fewer sites are left than the study needs.

        Raises:
            RunError: naming the stage, the numbers and the first causes.
        """
        least = self.study.min_sites(stage)
        if len(left) < least:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(failures.items())[:3])
            raise RunError(
                f"{len(left)} of {there} sites finished the stage {stage!r}: {why or 'no more take part in it'}",
                expected=f"at least {least}",
                fix="look into site.log of the sites named, which a simulation keeps under sites/ in its folder"
                if why
                else "let more sites take part, or lower min_sites",
            )

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, int]]:
        """Time a stage. The number of `clips` that is put into the dictionary gives a rate."""
        counts: dict[str, int] = {}
        self.notify(stage=name, state="started")
        start = time.monotonic()
        yield counts
        seconds = time.monotonic() - start
        rate = {"clips_per_second": round(counts["clips"] / max(seconds, 1e-9), 2)} if "clips" in counts else {}
        self.progress.stages.append(StageRow(name=name, seconds=round(seconds, 3), **rate))
        self.notify(stage=name, state="finished", seconds=round(seconds, 2))


def ranges(numbers: list[int]) -> str:
    """Rounds as text.

    >>> ranges([3]), ranges([1, 2, 3, 7])
    ('round 3', 'rounds 1-3, 7')
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return f"round{'' if len(set(numbers)) == 1 else 's'} {text}"
