"""Results of the stages of a study, one record a stage: the server's part of a run in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moretta.shared.audit.report.report_schema import EmotionResult, GatePart, RoundRow
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.terms import Modality
from moretta.shared.features.voice_forms import is_code, model_input
from moretta.shared.release import Release
from moretta.shared.release.release_format import ReleasedClip
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import Plan

if TYPE_CHECKING:
    from moretta.shared.models.emotion import EmotionModel

Arrays = dict[str, Array]
Tables = dict[str, Int64]


@dataclass(frozen=True)
class Approval:
    """The offer to real sites' stewards; empty in a simulation."""

    digest: str = ""
    """Of the study with the public arrays."""
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
    """Pseudonyms that the site states it holds out of training."""
    synthetic: bool = False
    """The site states that its clips were made by a program."""
    recomputed: dict[str, float | None] = field(default_factory=dict)
    """Epsilons of its voice release that the server computed and that are larger than stated, by mechanism/unit."""


@dataclass
class Releases:
    """Releases of all sites."""

    kept: dict[str, Release] = field(default_factory=dict)
    """By site."""
    facts: dict[str, SiteFacts] = field(default_factory=dict)
    """Of every site that announced a release, kept or not."""

    @property
    def clips(self) -> int:
        """Of all sites."""
        return sum(facts.clips for facts in self.facts.values())

    def held_out(self, plan: Plan) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training."""
        return plan.held_out_pseudonyms(facts.held_out for facts in self.facts.values())

    def synthetic(self, plan: Plan) -> bool:
        """Whether any clip was made by a program."""
        return plan.synthetic or any(facts.synthetic for facts in self.facts.values())

    def model_inputs(
        self, public: Arrays, modality: Modality, model: EmotionModel
    ) -> Iterator[tuple[Float32, ReleasedClip]]:
        """Features of every released clip of one modality, site by site, with the clip."""
        from moretta.shared.models.emotion import PublicScale

        scale = PublicScale(public["voice/mean"], public["voice/std"]) if "voice/mean" in public else None
        for _, release in sorted(self.kept.items()):
            statement = release.anonymizer(modality)
            for clip, array in release.arrays(modality):
                assert statement is not None
                ready = model_input(statement.form, array, release.codebook) if modality == "voice" else array
                yield model.features(ready, None if is_code(statement.form) else scale), clip


@dataclass
class SiteSpending:
    """Privacy loss of one site by training so far."""

    rounds: int = 0
    epsilon: dict[int, float] = field(default_factory=dict)
    """Of DP-SGD after each round, all models together, for one unit of the study."""
    levels: dict[str, float] = field(default_factory=dict)
    """In the end, of a clip and of a speaker, as far as there is a finite figure."""


@dataclass
class Training:
    """The rounds of all models, and which models are there."""

    trained: tuple[ModelKind, ...] = ()
    rounds: list[RoundRow] = field(default_factory=list)
    spent: dict[str, SiteSpending] = field(default_factory=dict)


@dataclass
class EmotionScores:
    """How well the global models recognize emotion on held-out speakers, by output."""

    emotion: dict[str, EmotionResult] = field(default_factory=dict)
    counts: dict[str, Tables] = field(default_factory=dict)
    """What `emotion` was scored from: confusion counts by output and pseudonymous speaker."""
    reliability: Tables = field(default_factory=dict)
    """The same for its calibration, by output, of all sites together."""


@dataclass
class Attacks:
    """Figures of the audit."""

    identity: list[Result] = field(default_factory=list)
    inference: list[Result] = field(default_factory=list)
    utility: list[Result] = field(default_factory=list)


@dataclass
class Results:
    """One field a stage."""

    public: Arrays = field(default_factory=dict)
    """Made of public data; a federated code replaces part of it."""
    approval: Approval = field(default_factory=Approval)
    code_units: dict[str, int] = field(default_factory=dict)
    """Clips or speakers, as the study says, that each site trained the code on."""
    releases: Releases = field(default_factory=Releases)
    absent: dict[str, str] = field(default_factory=dict)
    """Why an output has no result."""
    training: Training = field(default_factory=Training)
    models: dict[ModelKind, Arrays] = field(default_factory=dict)
    """Weights of the global models."""
    evaluation: EmotionScores = field(default_factory=EmotionScores)
    central: EmotionResult | None = None
    attacks: Attacks = field(default_factory=Attacks)
    gate: GatePart | None = None


@dataclass(frozen=True)
class AuditLimits:
    """Resources that the audit may use on this machine. No figure depends on them."""

    workers: int | None = None
    """Processes; None takes one for each CPU."""
    embeddings: Path | None = None
    """Where it keeps what encoders made of clips; None means in the run's own folder."""
