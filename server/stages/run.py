"""The context that all stages of a run share, the records that they take and give, and a run with all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moretta.server.grid.site_grid import SiteGrid, Traffic
from moretta.shared.audit.report.report_schema import EmotionResult, GatePart, PublicStart, RoundRow, StageRow
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable
from moretta.shared.core.terms import MODALITIES, Modality, PrivacyStatement
from moretta.shared.release import Release
from moretta.shared.release.release_format import ReleasedClip
from moretta.shared.study.run_plan import DeploymentPlan, Plan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind, RequestStage

if TYPE_CHECKING:
    from moretta.shared.models.emotion import EmotionModel

PROGRESS_FILE = "progress.jsonl"
SITE_SCORES = Path("server") / "site-scores"
"""Folder of the scores that sites have counted on their originals, one file a site."""
MEMORY_FILE = ".peak-memory"
"""Peak memory of all the run's processes so far, in bytes, kept up to date by the process that watches them."""
Arrays = dict[str, Array]
Tables = dict[str, Int64]


@dataclass(frozen=True, slots=True)
class Missed:
    """A stage or a round that one site took no part in."""

    stage: str
    why: str
    round: int | None = None
    """Round of training; None for a whole stage."""
    lost: bool = False
    """The site sent nothing, rather than something that could not be used."""


@dataclass
class Progress:
    """How far a run has come, and what its report must mention. It outlives a crash."""

    started: float = field(default_factory=time.time)
    done: list[str] = field(default_factory=list)
    last_round: dict[ModelKind, int] = field(default_factory=dict)
    """The last checkpointed round of a model whose training is not over."""
    stages: list[StageRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missed: dict[str, list[Missed]] = field(default_factory=dict)
    """Missed stages and rounds, by site; every site that the run has met is a key."""
    learned_from: dict[ModelKind, list[str]] = field(default_factory=dict)
    """Sites with an update in each model."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """Seconds and bytes of each site's messages."""

    @property
    def position(self) -> str:
        """The last thing that is over, as text."""
        if rounds := {m: n for m, n in self.last_round.items() if f"train {m}" not in self.done}:
            kind, number = next(iter(rounds.items()))
            return f"round {number} of training {kind}"
        return f"the stage {self.done[-1]!r}" if self.done else "the start"

    def missed_as_text(self, site: str) -> tuple[str, ...]:
        """Stages that a site took no part in as text, rounds of one stage together."""
        rounds: dict[str, list[int]] = {}
        for m in self.missed.get(site, []):
            rounds.setdefault(m.stage, []).extend([] if m.round is None else [m.round])
        return tuple(f"{ranges(numbers)} of {stage}" if numbers else stage for stage, numbers in rounds.items())


@dataclass(frozen=True)
class RunContext:
    """Folder, plan and progress of one run, with the ways to report."""

    folder: Path
    plan: Plan
    progress: Progress = field(default_factory=Progress)

    @property
    def study(self) -> Study:
        """The study of the plan."""
        return self.plan.study

    def checkpoint(self, kind: ModelKind, number: int | None = None) -> Path:
        """File of a global model, or of the weights of one round with the state of the strategy."""
        name = kind if number is None else f"{kind}-round-{number:05d}"
        return self.folder / "server" / "checkpoints" / f"{name}.safetensors"

    def update(self, kind: ModelKind, site: str) -> Path:
        """File of a site's update of the last round, if the study attacks updates."""
        return self.folder / "server" / "updates" / kind / f"{site}.safetensors"

    def public_start(self, kind: ModelKind) -> Path:
        """File of a model that was trained on public people before its first round, if the study names any."""
        return self.folder / "server" / "checkpoints" / f"{kind}-public.safetensors"

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
        """List sites that failed in a stage, in the report and in what they missed."""
        for site, why in sorted(failures.items()):
            self.warn(f"{site} {what}: {why}")
            self.miss(site, stage, why)

    def require_sites(
        self, left: Collection[str], there: int, stage: RequestStage, failures: Mapping[str, str]
    ) -> None:
        """Fail the run with a RunError if fewer sites are left than the study needs."""
        least = self.study.min_sites(stage)
        if len(left) < least:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(failures.items())[:3])
            raise RunError(
                f"{len(left)} of {there} sites finished the stage {stage!r}: {why or 'no more take part in it'}",
                expected=f"at least {least}",
                fix="let more sites take part, or lower min_sites"
                if not why
                else "ask the stewards of the sites named: their site.log has the error"
                if isinstance(self.plan, DeploymentPlan)
                else "",  # who runs a simulation gets the errors themselves
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


@dataclass(frozen=True)
class Approval:
    """The offer to real sites' stewards; empty in a simulation."""

    digest: str = ""
    """Digest of the study with the public arrays."""
    offered: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each of these arrays: those that have changed since were trained by the sites."""


@dataclass
class SiteFacts:
    """Facts of one site's release."""

    clips: int = 0
    speakers: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Clips that the site left out, by reason."""
    training: dict[str, int] = field(default_factory=dict)
    """Training clips by model."""
    held_out: tuple[str, ...] = ()
    """Pseudonyms held out of training and whether a program made the clips, as the site states."""
    synthetic: bool = False
    recomputed: dict[str, PrivacyStatement] = field(default_factory=dict)
    """Guarantees as the server computed them, where the site states stronger ones; by modality/mechanism/unit."""


@dataclass
class Releases:
    """Releases of all sites."""

    kept: dict[str, Release] = field(default_factory=dict)
    facts: dict[str, SiteFacts] = field(default_factory=dict)
    """Facts of every site that announced a release, kept or not."""

    @property
    def clips(self) -> int:
        """Number of clips, of all sites."""
        return sum(facts.clips for facts in self.facts.values())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of which any clip was released, whether or not they have a model; voice first."""
        return tuple(m for m in MODALITIES if any(m in release.modalities for release in self.kept.values()))

    def held_out(self, plan: Plan) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training."""
        return plan.held_out_pseudonyms(facts.held_out for facts in self.facts.values())

    def model_inputs(
        self, public: Arrays, modality: Modality, model: EmotionModel
    ) -> Iterator[tuple[Float32, ReleasedClip]]:
        """Features of every released clip of one modality, site by site, with the clip."""
        from moretta.shared.models.emotion import PublicScale

        scale = PublicScale.of(public)
        for _, release in sorted(self.kept.items()):
            statement = release.anonymizer(modality)
            for clip, array in release.arrays(modality):
                assert statement is not None
                yield model.input_of(statement.form, array, release.codebook, scale), clip


@dataclass
class SiteSpending:
    """Privacy loss of one site by training so far."""

    rounds: int = 0
    epsilon: dict[int, float] = field(default_factory=dict)
    """Epsilon of DP-SGD after each round, all models together, for one unit of the study."""
    levels: dict[str, float] = field(default_factory=dict)
    """Final epsilon of a clip and of a speaker, where it is finite."""


@dataclass
class Training:
    """The rounds of all models, and which models are there."""

    trained: tuple[ModelKind, ...] = ()
    rounds: list[RoundRow] = field(default_factory=list)
    spent: dict[str, SiteSpending] = field(default_factory=dict)
    public_start: dict[Modality, PublicStart] = field(default_factory=dict)
    """The models that public people were trained on before the first round."""


@dataclass
class EmotionScores:
    """How well the global models recognize emotion on held-out speakers, by output, and the counts behind that."""

    emotion: dict[str, EmotionResult] = field(default_factory=dict)
    counts: dict[str, Tables] = field(default_factory=dict)
    """Confusion, by output and pseudonymous speaker."""
    reliability: Tables = field(default_factory=dict)
    """Calibration, by output, of all sites together."""


@dataclass
class Attacks:
    """Figures of the attacks on identity; of those on all else, and of the utility that is left."""

    identity: list[Result] = field(default_factory=list)
    inference: list[Result] = field(default_factory=list)
    utility: list[Result] = field(default_factory=list)


@dataclass(frozen=True)
class AuditLimits:
    """Resources that the audit may use on this machine. No figure depends on them."""

    workers: int | None = None
    """Processes; None takes one for each CPU."""
    embeddings: Path | None = None
    """Cache of what encoders made of clips, and of what attackers found, for several runs on the same clips; None keeps
    the first alone, in the run's own folder."""


@dataclass
class Run:
    """A run with what its stages have given so far: only the list of stages and the checkpoints see all of it."""

    context: RunContext
    site_grid: SiteGrid | None = None
    """None once the sites' part is over."""
    limits: AuditLimits = field(default_factory=AuditLimits)
    public: Arrays = field(default_factory=dict)
    """Made of public data; a federated code replaces part of it."""
    approval: Approval = field(default_factory=Approval)
    code_units: dict[str, int] = field(default_factory=dict)
    """Clips or speakers, as the study says, that each site trained the code on."""
    releases: Releases = field(default_factory=Releases)
    absent: dict[str, str] = field(default_factory=dict)
    """Output without a result -> why."""
    training: Training = field(default_factory=Training)
    models: dict[ModelKind, Arrays] = field(default_factory=dict)
    evaluation: EmotionScores = field(default_factory=EmotionScores)
    central: EmotionResult | None = None
    attacks: Attacks = field(default_factory=Attacks)
    gate: GatePart | None = None

    @property
    def grid(self) -> SiteGrid:
        """The connection to the sites; raises RunError where their part of the run is over."""
        if self.site_grid is None:
            raise RunError("a stage needs sites after their part was over")
        return self.site_grid


def progress_events(text: str) -> Iterator[dict[str, Any]]:
    """Events of a part of the progress file. A half-written line, such as a killed server leaves, does not count."""
    for line in text.split("\n"):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"stage", "state"} <= event.keys():
                yield event


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
