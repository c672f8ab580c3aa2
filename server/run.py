"""What a run knows while it goes through its stages, and how it tells others of its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.server.audit.beyond.findings import Finding
from moretta.server.audit.emotion import EmotionRow
from moretta.server.audit.rows import AuditRow
from moretta.server.exchange import Exchange
from moretta.server.report.schema import EmotionResult, GatePart, RoundRow, StageRow
from moretta.shared.errors import RunError
from moretta.shared.plan import SimulationPlan
from moretta.shared.release import Release
from moretta.shared.release.format import Modality
from moretta.shared.study import Study

PROGRESS_FILE = "progress.jsonl"
MEMORY_FILE = ".peak-memory"
"""Peak memory of all the run's processes so far, in bytes, kept up to date by whoever watches them."""
Array = npt.NDArray[Any]


@dataclass
class SiteRecord:
    """What the server learned of one site."""

    clips: int = 0
    speakers: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    training: dict[str, int] = field(default_factory=dict)
    """Training clips by modality."""
    rounds: int = 0
    epsilon: dict[int, float] = field(default_factory=dict)
    """Spent by DP-SGD after each round, all models together."""


@dataclass
class Run:
    """One run of a study. Stages read and fill it in order."""

    folder: Path
    plan: SimulationPlan
    connection: Exchange | None = None
    """To the sites; None once their part is over."""
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    public: dict[str, Array] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)
    weights: dict[Modality, dict[str, Array]] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    """Modalities that have a model."""
    rounds: list[RoundRow] = field(default_factory=list)
    emotion: dict[str, EmotionResult] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a modality has no result."""
    central: EmotionResult | None = None
    audit: list[AuditRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """Of the attacks beyond identity."""
    judged: list[EmotionRow] = field(default_factory=list)
    """What judges of emotion still read."""
    gate: GatePart | None = None
    stages: list[StageRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exchange(self) -> Exchange:
        """The connection to the sites.

        Raises:
            RunError: their part of the run is over.
        """
        if self.connection is None:
            raise RunError("a stage asked for sites after their part was over")
        return self.connection

    @property
    def study(self) -> Study:
        """The study of this run."""
        return self.plan.study

    def checkpoint(self, modality: Modality) -> Path:
        """Where a global model is kept."""
        return self.folder / "server" / "checkpoints" / f"{modality}.safetensors"

    def update(self, modality: Modality, site: str) -> Path:
        """Where a site's update of the last round is kept, if the study attacks updates."""
        return self.folder / "server" / "updates" / modality / f"{site}.safetensors"

    def warn(self, text: str) -> None:
        """Note something that the report must tell."""
        if text not in self.warnings:
            self.warnings.append(text)

    def require_sites(self, left: list[str], stage: str, why: str) -> None:
        """Fail the run if fewer sites are left than the study asks for.

        Raises:
            RunError: naming the stage, the numbers and the first cause.
        """
        if len(left) < self.study.train.min_sites:
            raise RunError(
                f"{len(left)} of {len(self.exchange.sites)} sites finished the stage {stage!r}: {why}",
                expected=f"at least {self.study.train.min_sites}",
                fix="look into the logs of the sites, in the run's folder under sites/",
            )

    def tell(self, **event: Any) -> None:
        """Append one line to the progress file: who watches the run reads it."""
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, float]]:
        """Time a stage; rates put into the dictionary are kept with it."""
        rates: dict[str, float] = {}
        self.tell(stage=name, state="started")
        start = time.monotonic()
        yield rates
        seconds = time.monotonic() - start
        self.stages.append(StageRow(name=name, seconds=round(seconds, 3), **_per_second(rates, seconds)))
        self.tell(stage=name, state="finished", seconds=round(seconds, 2))


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run: a name and a function that reads and fills the run."""

    name: str
    work: Callable[[Run, dict[str, float]], None]


def run_stages(run: Run, stages: list[Stage]) -> None:
    """Run stages in order; an error stops the run and carries the stage's name."""
    for stage in stages:
        with run.timed(stage.name) as rates:
            try:
                stage.work(run, rates)
            except Exception as error:
                error.add_note(f"in the stage {stage.name!r}")
                raise


def _per_second(rates: dict[str, float], seconds: float) -> dict[str, float]:
    safe = max(seconds, 1e-9)
    known = {"clips": "clips_per_second", "frames": "frames_per_second", "audio_seconds": "times_real_time"}
    return {name: float(np.round(rates[key] / safe, 2)) for key, name in known.items() if key in rates}
