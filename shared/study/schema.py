"""The study file: what the coordinator defines, in one schema. Unknown keys and impossible values are errors."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS, Classes
from moretta.shared.core.printable import from_toml
from moretta.shared.core.terms import MODALITIES, Modality
from moretta.shared.study.former_names import with_current_names
from moretta.shared.study.options import FaceSection, SiteTrainingPlan, VoiceSection
from moretta.shared.study.problems import validated
from moretta.shared.study.sections import (
    AVERAGING,
    FUSION_MODEL,
    AggregationSection,
    AuditSection,
    FusionSection,
    GateSection,
    ModelKind,
    PrivacySection,
    RequestStage,
    RunSection,
    Section,
    SplitSection,
    StageLimits,
    StagesSection,
    TrainSection,
)


class Study(Section):
    """A whole study. Every field has a default, so an empty file is a study."""

    name: str = Field(default="moretta", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    """Name of the study, in its report."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Seed of every random choice but privacy noise in deployment."""
    labels: Literal["intended", "vote"] = "intended"
    """CREMA-D's labels: the emotion that was acted, or the one that listeners voted for."""
    classes: Classes = EMOTIONS
    """The labels that the study distinguishes; clips of other labels are left out and counted."""
    sites: int = Field(default=6, ge=1, le=10_000)
    """Virtual sites in simulation."""
    linkage: Literal["study", "site"] = "study"
    """How far real sites' pseudonyms reach: for this study alone, or the same in all studies that choose `site`."""
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
    run: RunSection = RunSection()

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
        if not self.modalities:
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
        if len({(self.section(m).anonymizer, self.section(m).site_training()) for m in self.trained_modalities}) > 1:
            yield (
                "voice and face each have an encoder that sites train, and a study trains one; train one of them on "
                "public people, or both as one, by the same anonymizer and the same code_ options"
            )
        if aggregation.secure and self.audit.enabled and self.audit.inference and self.audit.updates:
            yield "secure aggregation hides the updates that audit.updates attacks; set updates = false in [audit]"
        if aggregation.secure and self.train.fraction_train < 1:
            # So et al., "Securing Secure Aggregation", AAAI 2023
            yield (
                "secure aggregation with train.fraction_train below 1: from sums over other sites in each round "
                "single updates can be worked out; leave it at 1"
            )
        if aggregation.secure and self.stages.on_lost_site == "retry":
            yield (
                'secure aggregation takes the masks of a lost site off and goes on; stages.on_lost_site = "retry" '
                'would wait for it in each of the four steps of a round; leave it at "continue"'
            )

    def digest(self) -> str:
        """SHA-256 of the study's content, hexadecimal: what a site compares before it takes part.

        Files that the study names are the coordinator's own. Arrays made of them count by content, among the public
        arrays, so paths are no part of the digest. Nor is the device of the coordinator.
        """
        return hashlib.sha256(self.without_paths().model_dump_json(exclude={"run"}).encode()).hexdigest()

    @property
    def paths(self) -> dict[str, Path]:
        """Files and folders that the study names, by key: they are on the coordinator's machine."""
        found = {
            f"{modality}.options.{key}": path
            for modality in MODALITIES
            for key, path in self.section(modality).options.paths().items()
        }
        people = {"audit.public": self.audit.public, "train.public": self.train.public}
        return found | {key: path for key, path in people.items() if path is not None}

    def for_sites(self) -> dict[str, Any]:
        """The study as sites get it, plain: without the coordinator's files and devices."""
        return self.without_paths().model_dump(mode="json", exclude={"run"})

    def without_paths(self) -> Study:
        """A copy in which no file is named."""
        sections: dict[str, Any] = {
            modality: section.model_copy(update={"options": section.options.without_paths()})
            for modality in MODALITIES
            if (section := self.section(modality)).options.paths()
        }
        people: tuple[tuple[str, AuditSection | TrainSection], ...] = (("audit", self.audit), ("train", self.train))
        sections |= {
            n: section.model_copy(update={"public": None}) for n, section in people if section.public is not None
        }
        return self.model_copy(update=sections)

    def section(self, modality: Modality) -> VoiceSection | FaceSection:
        """The section of one modality."""
        return self.voice if modality == "voice" else self.face

    def min_sites(self, stage: RequestStage) -> int:
        """How many sites must finish a stage."""
        limits: StageLimits = getattr(self.stages, stage)
        least = limits.min_sites or self.train.min_sites
        return max(least, self.aggregation.min_sites) if self.aggregation.bounds_sites and stage == "train" else least

    def deadline_seconds(self, stage: RequestStage) -> float:
        """How long the server waits for the responses to one request of a stage."""
        limits: StageLimits = getattr(self.stages, stage)
        return limits.deadline_seconds or self.train.deadline_seconds

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that are studied, voice first."""
        return tuple(modality for modality in MODALITIES if self.section(modality).enabled)

    @property
    def trained_modalities(self) -> tuple[Modality, ...]:
        """Modalities whose encoder sites train together before they release; there is one encoder."""
        return tuple(m for m in self.modalities if self.section(m).site_training() is not None)

    @property
    def site_training(self) -> SiteTrainingPlan | None:
        """Plan of the encoder that sites train together before they release; None if no anonymizer has one."""
        return next((self.section(m).site_training() for m in self.trained_modalities), None)

    @property
    def learns_fusion(self) -> bool:
        """Whether a fusion is trained: the study wants one, and there are two modalities to weigh."""
        return self.fusion.kind == "learned" and len(self.modalities) > 1

    @property
    def models(self) -> tuple[ModelKind, ...]:
        """Models that are trained, in this order."""
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
        """Whether a model learns on this training clip, by the pseudonyms of speaker and clip.

        Which clips are held back for the fusion follows from the pseudonym of what DP-SGD protects, a clip or a
        speaker, and from nothing else: with one clip more or less no other clip changes sides, so that what a clip
        loses is what one side loses, never both.
        """
        if len(self.sharing_clips) == 1:
            return True
        protected = clip if self.privacy.unit == "clip" else speaker
        digest = hashlib.sha256(f"held back {self.seed} {protected}".encode()).digest()
        return (int.from_bytes(digest[:8]) / 2**64 < self.fusion.held_back) == (kind == "fusion")

    def with_changes(self, **changes: Any) -> Study:
        """A copy with keys changed, `section__key` for nested ones, and checked again; None changes nothing."""
        settings = {key.replace("__", "."): value for key, value in changes.items() if value is not None}
        return parse_study(self.content_with(settings))

    def content_with(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The content of this study with some keys changed, each given with dots: `voice.options.epsilon`.

        Where an anonymizer is changed, the new one takes over those options that differ from their defaults and that it
        has itself, and the form, if it can release it.
        """
        content = self.model_dump(exclude_unset=True)
        for modality in MODALITIES:
            section, named = self.section(modality), settings.get(f"{modality}.anonymizer")
            if named not in (None, section.anonymizer):
                kept = section.model_dump(exclude_unset=True, exclude={"options", "form"})
                content[modality] = kept | section.carried_over(named)
        whole: Any = self.model_dump()
        for key, value in settings.items():
            *path, last = key.split(".")
            table, known = content, whole
            for part in path:
                table, known = table.setdefault(part, {}), known.get(part) if isinstance(known, dict) else None
                if not isinstance(table, dict) or not isinstance(known, dict | None):
                    raise StudyError(f"the key {key}", expected="a key of the study file", fix="see docs/study.md")
            table[last] = value
        return content


def parse_study(content: Mapping[str, Any], *, source: str = "the study", folder: Path | None = None) -> Study:
    """Check the content of a study file; one StudyProblems has every problem with its key.

    Args:
        source: what it is, for errors.
        folder: that paths in it are relative to; None leaves them as they are.
    """
    try:
        content = with_current_names(content, source=source)
        return validated(Study, content, source=source, context={"folder": folder})
    except RecursionError as error:  # dotted keys nest without brackets
        expected, fix = "only the keys that docs/study.md lists", "correct or remove the deep key"
        raise StudyError(f"{source} has a key that is nested too deeply", expected=expected, fix=fix) from error


def load_study(path: Path | None, settings: Mapping[str, Any] | None = None) -> Study:
    """Read a study file; None gives the defaults. Paths in it are relative to the file.

    `settings` are keys that are changed, as for `content_with`; paths in these are relative to the working directory.
    """
    study = Study()
    if path is not None:
        try:
            content = from_toml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            fix = "correct the path" if isinstance(error, OSError) else "see docs/study.md"
            found = f"the study file {path} cannot be read: {error}"
            raise StudyError(found, expected="a TOML file in UTF-8", fix=fix) from error
        study = parse_study(content, source=f"the study file {path}", folder=path.parent)
    if not settings:
        return study
    return parse_study(study.content_with(settings), source="the study with what --set changes", folder=Path.cwd())
