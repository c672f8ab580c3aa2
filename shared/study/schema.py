"""The study file: what the coordinator defines, in one schema. Unknown keys and impossible values are errors."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS, Classes
from moretta.shared.core.terms import MODALITIES, Modality
from moretta.shared.study.aggregation import AVERAGING, AggregationSection
from moretta.shared.study.former_names import refuse_removed, with_current_names
from moretta.shared.study.fusion import FUSION_MODEL, FusionSection, ModelKind, is_held_back
from moretta.shared.study.modalities import FaceSection, VoiceSection
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.sections import Computable, Delta, Epsilon, Fraction, Positive, Section

Accountant = Literal["rdp", "prv"]
Clipping = Literal["per-example", "ghost"]


class TrainSection(Section):
    """`[train]`: federated training of the emotion models."""

    rounds: int = Field(default=10, ge=1, le=10_000)
    strategy: str = "FedAvg"
    strategy_options: dict[str, float | int | bool] = Field(default_factory=dict)
    local_epochs: int = Field(default=1, ge=1, le=100)
    batch_size: int = Field(default=16, ge=1, le=4096)
    learning_rate: Computable = 0.3
    min_sites: int = Field(default=1, ge=1)
    """A stage or round with fewer sites' answers fails, and the run with it."""
    deadline_seconds: Positive = 3600.0
    """How long the server waits for the sites' answers to one question."""
    max_update_norm: Positive = 1e6
    """L2 norm of an update beyond which it is taken for damage or an attack."""


RequestStage = Literal["release", "train", "evaluate"]
"""The stages in which sites are asked something."""


class StageLimits(Section):
    """What one stage asks for where it differs from `[train]`."""

    min_sites: int | None = Field(default=None, ge=1)
    deadline_seconds: Positive | None = None


class StagesSection(Section):
    """`[stages]`: how long sites are waited for, and what happens when one is lost."""

    wait_seconds: Positive = 600.0
    """How long enrolled sites are waited for before the study starts with those that are there."""
    on_lost_site: Literal["continue", "retry"] = "continue"
    """`continue`: a stage or round ends without a site that was lost in it. `retry`: the site is asked again when it
    is back, up to the deadline."""
    release: StageLimits = StageLimits()
    train: StageLimits = StageLimits()
    evaluate: StageLimits = StageLimits()


class PrivacySection(Section):
    """`[privacy]`: DP-SGD at every site."""

    dp_sgd: bool = True
    unit: Literal["clip", "speaker"] = "clip"
    """What is sampled and whose gradient is clipped: a clip, or all clips of a speaker at a site as one example."""
    epsilon: Epsilon = 8.0
    """Target over all rounds and models, for one unit; the noise is calibrated to it at each site."""
    delta: Delta = 1e-3
    max_grad_norm: Computable = 1.0
    clipping: Clipping = "per-example"
    """How Opacus cuts gradients of clips: from all of them, or `ghost`, from their norms in two passes."""
    accountant: Accountant = "rdp"
    """Opacus' own: `prv` proves the same epsilon with about a tenth less noise, and takes seconds to calibrate it."""

    @model_validator(mode="after")
    def _ghosts_are_clips(self) -> Self:
        if self.clipping == "ghost" and self.unit == "speaker":
            raise ValueError(
                "ghost clipping knows the norm of each clip's gradient; what is cut for a speaker is the mean of "
                'several, whose norm does not follow from theirs; choose clipping = "per-example", or unit = "clip"'
            )
        return self


class SplitSection(Section):
    """`[split]`: speakers of `test_fold` are held out of training at every site."""

    folds: int = Field(default=5, ge=2)
    test_fold: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.test_fold >= self.folds:
            raise ValueError(f"test_fold {self.test_fold} does not exist: folds count from 0 to {self.folds - 1}")
        return self


class AuditSection(Section):
    """`[audit]`: which attackers run on what was released."""

    enabled: bool = True
    attackers: tuple[str, ...] = ()
    """Names of attackers; empty means all that are there."""
    bootstrap: int = Field(default=200, ge=0, le=100_000)
    attributes: bool = True
    """Sites state sex and age group of pseudonymous speakers, so that attribute inference can be scored."""
    inference: bool = True
    """Attacks beyond identity: attributes, inversion, membership, updates, voice to face."""
    updates: bool = True
    """Those on updates, as part of `inference`: the server keeps each site's last one for them."""
    utility: bool = True
    """Evaluators of emotion on originals and releases: what an anonymizer has left."""


class GateSection(Section):
    """`[gate]`: limits that fail the run. None means no limit."""

    max_top1: Fraction | None = None
    min_eer: Fraction | None = None
    max_epsilon: Positive | None = None


class Study(Section):
    """A whole study. Every field has a default, so an empty file is a study."""

    name: str = Field(default="moretta", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    seed: int = Field(default=1, ge=0, lt=2**31)
    labels: Literal["intended", "vote"] = "intended"
    classes: Classes = EMOTIONS
    """The labels that the study tells apart; clips of other labels are left out and counted."""
    sites: int = Field(default=6, ge=1, le=10_000)
    """Virtual sites in simulation."""
    linkage: Literal["study", "site"] = "study"
    """How far real sites' pseudonyms reach: for this study alone, or the same in all studies that ask for `site`."""
    voice: VoiceSection = Field(default_factory=VoiceSection)
    face: FaceSection = Field(default_factory=FaceSection)
    fusion: FusionSection = FusionSection()
    train: TrainSection = TrainSection()
    stages: StagesSection = StagesSection()
    privacy: PrivacySection = PrivacySection()
    aggregation: AggregationSection = AggregationSection()
    split: SplitSection = SplitSection()
    audit: AuditSection = AuditSection()
    gate: GateSection = GateSection()

    @model_validator(mode="before")
    @classmethod
    def _former_names_are_read(cls, content: Any) -> Any:
        return with_current_names(content, source="the study") if isinstance(content, Mapping) else content

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if problems := list(self._contradictions()):
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> Iterator[str]:
        aggregation = self.aggregation
        if len({name.casefold() for name in self.classes}) < len(self.classes):
            yield "two classes have the same name"
        if not (self.voice.enabled or self.face.enabled):
            yield "voice and face are both disabled: nothing is left to study"
        if aggregation.bounds_sites and self.train.strategy not in AVERAGING:
            yield (
                f"the strategy {self.train.strategy} compares single updates, and [aggregation] hides them in their "
                f"sum; choose one of: {', '.join(AVERAGING)}"
            )
        if aggregation.bounds_sites and self.site_training is not None:
            yield (
                "an encoder that sites train is trained by updates that the server sees one by one, and carries what a "
                'site has into all releases; train it on public speech, or set dp = "none" and secure = false in '
                "[aggregation]"
            )
        if aggregation.secure and self.audit.enabled and self.audit.inference and self.audit.updates:
            yield (
                "secure aggregation hides the single updates that audit.updates attacks; set updates = false in [audit]"
            )
        if aggregation.secure and self.stages.on_lost_site == "retry":
            yield (
                'secure aggregation takes the masks of a lost site off and goes on; stages.on_lost_site = "retry" '
                'would wait for it in each of the four steps of a round; leave it at "continue"'
            )

    def digest(self) -> str:
        """SHA-256 of the study's content, hexadecimal: what a site compares before it takes part.

        Files that the study names are the coordinator's own. What is made of them counts by its content, among the
        public arrays, so their paths are no part of the digest.
        """
        return hashlib.sha256(self.without_paths().model_dump_json().encode()).hexdigest()

    @property
    def paths(self) -> dict[str, Path]:
        """Files and folders that the study names, by key: they are on the coordinator's machine."""
        return {
            f"{modality}.options.{key}": path
            for modality in MODALITIES
            for key, path in self.section(modality).options.paths().items()
        }

    def without_paths(self) -> Study:
        """The study as a site may see it: no file is named in it."""
        sections: dict[str, Any] = {
            modality: section.model_copy(update={"options": section.options.without_paths()})
            for modality in MODALITIES
            if (section := self.section(modality)).options.paths()
        }
        return self.model_copy(update=sections) if sections else self

    def section(self, modality: Modality) -> VoiceSection | FaceSection:
        """The section of one modality."""
        return self.voice if modality == "voice" else self.face

    def min_sites(self, stage: RequestStage) -> int:
        """How many sites must finish a stage."""
        limits: StageLimits = getattr(self.stages, stage)
        least = limits.min_sites or self.train.min_sites
        return max(least, self.aggregation.min_sites) if self.aggregation.bounds_sites and stage == "train" else least

    def deadline_seconds(self, stage: RequestStage) -> float:
        """How long the server waits for the answers to one question of a stage."""
        limits: StageLimits = getattr(self.stages, stage)
        return limits.deadline_seconds or self.train.deadline_seconds

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that are studied, voice first."""
        return tuple(modality for modality in MODALITIES if self.section(modality).enabled)

    @property
    def site_training(self) -> SiteTrainingPlan | None:
        """What sites train together before they release, if the anonymizers have anything."""
        plans = (self.section(modality).site_training() for modality in self.modalities)
        return next((plan for plan in plans if plan is not None), None)

    @property
    def learns_fusion(self) -> bool:
        """Whether a fusion is trained: it is asked for, and there are two modalities to weigh."""
        return self.fusion.kind == "learned" and len(self.modalities) > 1

    @property
    def models(self) -> tuple[ModelKind, ...]:
        """What is trained, in this order."""
        return (*self.modalities, *(("fusion",) if self.learns_fusion else ()))

    @property
    def sharing_clips(self) -> tuple[tuple[ModelKind, ...], ...]:
        """The models by the clips they learn on: of what DP-SGD protects, nothing is in the clips of two groups."""
        if not self.learns_fusion or self.fusion.held_back == 0:
            return (self.models,)
        return (self.modalities, ("fusion",))

    def model_of(self, kind: ModelKind) -> str:
        """The name of the model of this kind."""
        return FUSION_MODEL if kind == "fusion" else self.section(kind).model

    def learns(self, kind: ModelKind, *, speaker: str, clip: str) -> bool:
        """Whether a model learns on this training clip, by the pseudonyms of speaker and clip."""
        if len(self.sharing_clips) == 1:
            return True
        kept = is_held_back(self.fusion, self.seed, clip if self.privacy.unit == "clip" else speaker)
        return kept == (kind == "fusion")

    def with_changes(self, **changes: Any) -> Study:
        """A copy with keys changed, `section__key` for nested ones, and checked again; None changes nothing."""
        settings = {key.replace("__", "."): value for key, value in changes.items() if value is not None}
        return parse_study(self.content_with(settings))

    def content_with(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The content of this study with some keys changed, each given with dots: `voice.options.epsilon`.

        Where an anonymizer is changed, the new one takes over those options that differ from their defaults and that it
        has itself, and the form, if it can release it.

        Raises:
            StudyError: a key inside something that is no section.
        """
        content = self.model_dump()
        for modality in MODALITIES:
            section, named = self.section(modality), settings.get(f"{modality}.anonymizer")
            if named not in (None, section.anonymizer):
                content[modality] = section.model_dump(exclude={"options", "form"}) | section.carried_over(named)
        for key, value in settings.items():
            *path, last = key.split(".")
            table = content
            for part in path:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    raise StudyError(f"the key {key}", expected="a key of the study file", fix="see docs/study.md")
            table[last] = value
        return content


def parse_study(content: Mapping[str, Any], *, source: str = "the study", folder: Path | None = None) -> Study:
    """Check the content of a study file.

    Args:
        content: as TOML gives it.
        source: what it is, for errors.
        folder: that paths in it are relative to; None leaves them as they are.

    Raises:
        StudyError: every problem in one message, each with its key; what was removed, before any other.
    """
    content = with_current_names(content, source=source)
    refuse_removed(content, source=source)
    try:
        return Study.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or 'study'}: {e['msg']} (got {_short(e['input'])})"
            for e in error.errors()
        )
        raise StudyError(
            f"{source} cannot be used: {problems}",
            expected="only the keys and values that docs/study.md lists",
            fix="correct or remove the keys named above",
        ) from error


def load_study(path: Path | None) -> Study:
    """Read a study file; None gives the defaults. Paths in it are relative to the file.

    Raises:
        StudyError: the file is missing, not TOML, or breaks the schema.
    """
    if path is None:
        return Study()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fix = "correct the path" if isinstance(error, OSError) else "see docs/study.md"
        found = f"the study file {path} cannot be read: {error}"
        raise StudyError(found, expected="a TOML file in UTF-8", fix=fix) from error
    return parse_study(content, source=f"the study file {path}", folder=path.parent)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
