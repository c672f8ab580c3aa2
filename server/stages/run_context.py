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

from moretta.server.grid.pending_request import Content, SiteResponse
from moretta.server.grid.site_grid import SiteGrid
from moretta.shared.audit.audit_row import AuditRow
from moretta.shared.audit.inference.findings import InferenceFinding
from moretta.shared.audit.report.report_schema import EmotionResult, GatePart, RoundRow, StageRow
from moretta.shared.audit.utility import EmotionRow
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable
from moretta.shared.release import Release
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import Plan
from moretta.shared.study.schema import RequestStage, Study

PROGRESS_FILE = "progress.jsonl"
MEMORY_FILE = ".peak-memory"
"""Peak memory of all the run's processes so far, in bytes, kept up to date by whoever watches them."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Missed:
    """What one site took no part in."""

    stage: str
    why: str
    round: int | None = None
    """Of training; None for a whole stage."""
    lost: bool = False
    """The site sent nothing; it was not that what it sent could not be used."""


@dataclass
class RunSite:
    """What the server learned of one site."""

    clips: int = 0
    speakers: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    training: dict[str, int] = field(default_factory=dict)
    """Training clips by model."""
    code_weight: int = 0
    """What its updates weighed in training the code, in clips or speakers as the study says, before it released."""
    rounds: int = 0
    epsilon: dict[int, float] = field(default_factory=dict)
    """Spent by DP-SGD after each round, all models together, for one unit of the study."""
    levels: dict[str, float] = field(default_factory=dict)
    """Spent in the end of a clip and of a speaker, as far as there is a finite figure."""
    recomputed: dict[str, float | None] = field(default_factory=dict)
    """Epsilons of its voice release that the server computed and that are larger than stated, by mechanism/unit."""
    held_out: tuple[str, ...] = ()
    """Pseudonyms that the site holds out of training, as it told."""
    synthetic: bool = False
    """The site told that its clips were made by a program."""
    missed: list[Missed] = field(default_factory=list)

    def missed_as_text(self) -> tuple[str, ...]:
        """What it took no part in, rounds of one stage together."""
        texts = []
        for stage in dict.fromkeys(m.stage for m in self.missed):
            rounds = [m.round for m in self.missed if m.stage == stage and m.round is not None]
            texts.append(f"{ranges(rounds)} of {stage}" if rounds else stage)
        return tuple(texts)


@dataclass
class Run:
    """One run of a study. Stages read and fill it in order."""

    folder: Path
    plan: Plan
    connection: SiteGrid | None = None
    """To the sites; None once their part is over."""
    workers: int | None = None
    """Processes of the audit; None takes one for each CPU. No figure depends on it."""
    embeddings: Path | None = None
    """Where the audit keeps what encoders made of clips; None means in the run's own folder."""
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    sites: dict[str, RunSite] = field(default_factory=dict)
    public: dict[str, Array] = field(default_factory=dict)
    approval: str = ""
    """Digest of the study with the public arrays that real sites were offered; empty in a simulation."""
    offered: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each of these arrays: those that have changed since were trained by the sites."""
    releases: dict[str, Release] = field(default_factory=dict)
    weights: dict[ModelKind, dict[str, Array]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    """Names of the stages that are over."""
    last_round: dict[ModelKind, int] = field(default_factory=dict)
    """The last checkpointed round of a model whose training is not over."""
    trained: tuple[str, ...] = ()
    """Models that are there: of modalities, and the fusion."""
    rounds: list[RoundRow] = field(default_factory=list)
    emotion: dict[str, EmotionResult] = field(default_factory=dict)
    counts: dict[str, dict[str, npt.NDArray[np.int64]]] = field(default_factory=dict)
    """What `emotion` was scored from: confusion counts by output and pseudonymous speaker."""
    reliability: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """The same for its calibration, by output, of all sites together."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a modality has no result."""
    central: EmotionResult | None = None
    audit: list[AuditRow] = field(default_factory=list)
    findings: list[InferenceFinding] = field(default_factory=list)
    """Of the attacks beyond identity."""
    utility: list[EmotionRow] = field(default_factory=list)
    """What judges of emotion still read."""
    gate: GatePart | None = None
    stages: list[StageRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def site_grid(self) -> SiteGrid:
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

    def checkpoint(self, kind: ModelKind) -> Path:
        """Where a global model is kept."""
        return self.folder / "server" / "checkpoints" / f"{kind}.safetensors"

    def update(self, kind: ModelKind, site: str) -> Path:
        """Where a site's update of the last round is kept, if the study attacks updates."""
        return self.folder / "server" / "updates" / kind / f"{site}.safetensors"

    def round_checkpoint(self, kind: ModelKind, number: int) -> Path:
        """Where a round's weights are kept until the next round's are, with what the strategy remembers."""
        return self.folder / "server" / "checkpoints" / f"{kind}-round-{number:05d}.safetensors"

    def held_out(self) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training."""
        return self.plan.held_out_pseudonyms(record.held_out for record in self.sites.values())

    @property
    def synthetic(self) -> bool:
        """Whether any clip was made by a program."""
        return self.plan.synthetic or any(record.synthetic for record in self.sites.values())

    def ask(
        self, stage: RequestStage, call: str, content: Content, *, sites: list[str] | None = None
    ) -> list[SiteResponse]:
        """Ask sites within the stage's deadline."""
        return self.site_grid.ask(call, content, sites=sites, deadline_seconds=self.study.deadline_seconds(stage))

    @property
    def whereabouts(self) -> str:
        """The last thing that is over, in words."""
        if rounds := {m: n for m, n in self.last_round.items() if f"train {m}" not in self.done}:
            kind, number = next(iter(rounds.items()))
            return f"round {number} of training {kind}"
        return f"the stage {self.done[-1]!r}" if self.done else "the start"

    def miss(self, site: str, stage: str, why: str, *, round_number: int | None = None, lost: bool = False) -> None:
        """Note what a site took no part in."""
        self.sites.setdefault(site, RunSite()).missed.append(Missed(stage, why, round_number, lost))

    def warn(self, text: str) -> None:
        """Note something that the report must tell."""
        text = printable(text)
        if text not in self.warnings:
            self.warnings.append(text)

    def require_sites(self, left: list[str], stage: RequestStage, why: str) -> None:
        """Fail the run if fewer sites are left than the study asks for.

        Raises:
            RunError: naming the stage, the numbers and the first cause.
        """
        least, there = self.study.min_sites(stage), len(self.site_grid.sites)
        if len(left) < least:
            raise RunError(
                f"{len(left)} of {there} sites finished the stage {stage!r}: {why or 'no more take part in it'}",
                expected=f"at least {least}",
                fix="look into site.log of the sites named, which a simulation keeps under sites/ in its folder"
                if why
                else "let more sites take part, or lower min_sites",
            )

    def notify(self, **event: Any) -> None:
        """Append one line to the progress file: who watches the run reads it."""
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, float]]:
        """Time a stage; rates put into the dictionary are kept with it."""
        rates: dict[str, float] = {}
        self.notify(stage=name, state="started")
        start = time.monotonic()
        yield rates
        seconds = time.monotonic() - start
        self.stages.append(StageRow(name=name, seconds=round(seconds, 3), **_per_second(rates, seconds)))
        self.notify(stage=name, state="finished", seconds=round(seconds, 2))


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run: a name and a function that reads and fills the run."""

    name: str
    work: Callable[[Run, dict[str, float]], None]
    wanted: Callable[[Run], bool] = lambda _: True
    """Whether the study has it."""


def run_stages(run: Run, stages: list[Stage], *, after_each: Callable[[Run], None] | None = None) -> None:
    """Run stages in order, but for those that are over; an error stops the run and carries the stage's name."""
    for stage in stages:
        if stage.name in run.done or not stage.wanted(run):
            continue
        with run.timed(stage.name) as rates:
            try:
                stage.work(run, rates)
            except Exception as error:
                error.add_note(f"in the stage {stage.name!r}")
                raise
        run.done.append(stage.name)
        if after_each is not None:
            after_each(run)


def ranges(numbers: list[int]) -> str:
    """Rounds in words.

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


def _per_second(rates: dict[str, float], seconds: float) -> dict[str, float]:
    safe = max(seconds, 1e-9)
    known = {"clips": "clips_per_second", "frames": "frames_per_second", "audio_seconds": "times_real_time"}
    return {name: float(np.round(rates[key] / safe, 2)) for key, name in known.items() if key in rates}
