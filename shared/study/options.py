"""`[voice]` and `[face]` of the study file: what is common to all anonymizers, and the options of the one named.

Options are a model that the anonymizer's own file defines. Anonymizers are plug-ins: they are looked up at run time and
never imported here, so that the coordinator, a site and the server check options alike.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from moretta.shared.core.errors import StudyError
from moretta.shared.core.plugins import Registry
from moretta.shared.core.terms import Modality
from moretta.shared.study.sections import Fraction, Positive, Section

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTrainingPlan:
    """Plan of an encoder that sites train together before they release."""

    rounds: int
    unit: Literal["clip", "speaker"]
    """Unit that the guarantee protects: each is one example, with a clipped gradient."""
    epsilon: float
    """Target for one unit over all rounds; 0 trains without noise and guarantees nothing."""
    delta: float
    epsilon_key: str = "epsilon"
    """Option that holds epsilon."""


class Options(Section):
    """Base of the options of every anonymizer. Each field has a default; unknown keys are errors."""

    @classmethod
    def of(cls, options: Options) -> Self:
        """Options of a study as this model, `MyOptions.of(study.voice.options)`; those of another are a StudyError."""
        if not isinstance(options, cls):
            raise StudyError(f"{type(options).__name__} of another anonymizer", expected=cls.__name__)
        return options

    def paths(self) -> dict[str, Path]:
        """Files and folders that the options name. They are on the coordinator's machine; no site sees them."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Path)}

    def without_paths(self) -> Self:
        """The options without these files and folders."""
        return self.model_copy(update=dict.fromkeys(self.paths()))

    def site_training(self) -> SiteTrainingPlan | None:
        """Plan of an encoder that sites train together before they release; None, the default, without one."""
        return None


class DeclaresOptions(Protocol):
    """Properties of an anonymizer that a study file is checked against."""

    Options: ClassVar[type[Options]]
    forms: ClassVar[tuple[str, ...]]
    """Released forms that it offers, of those in the release format. The first is the default."""


ANONYMIZERS: Registry[type[DeclaresOptions]] = Registry(
    "anonymizer", group="moretta.anonymizers", package="moretta.client.anonymizers", error=StudyError
)


class ModalitySection(Section):
    """How one modality is anonymized and modelled."""

    modality: ClassVar[Modality]

    enabled: bool = True
    """Whether the study has this modality."""
    anonymizer: str
    """The anonymizer; docs/anonymizers.md lists all."""
    form: str = Field(default="", validate_default=True)
    """Released form; by default the first one of the anonymizer."""
    options: SerializeAsAny[Options] = Field(default_factory=Options, validate_default=True)
    """Options of the anonymizer, checked by its own model."""
    model: str
    """The emotion model that is trained on releases."""

    @model_validator(mode="before")
    @classmethod
    def _former_keys_are_moved(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.keys() & FLAT_KEYS[cls.modality].keys():
            name = content.get("anonymizer", cls.model_fields["anonymizer"].default)
            return _without_flat_keys(cls.modality, content, name)
        return content

    @field_validator("anonymizer")
    @classmethod
    def _the_anonymizer_is_known(cls, name: str) -> str:
        try:
            ANONYMIZERS.get(name, scope=cls.modality)
        except StudyError as error:
            raise ValueError(f"unknown; expected {error.expected}") from error
        return name

    @field_validator("form")
    @classmethod
    def _the_anonymizer_has_the_form(cls, form: str, info: ValidationInfo) -> str:
        name = info.data.get("anonymizer")
        if name is None:  # the problem with the name is reported by itself
            return form
        forms = ANONYMIZERS.get(name, scope=cls.modality).forms
        if form and form not in forms:
            raise ValueError(f"{name} releases the form {' or '.join(forms)}, not {form}")
        return form or forms[0]

    @field_validator("options", mode="before")
    @classmethod
    def _the_anonymizer_checks_its_options(cls, options: Any, info: ValidationInfo) -> Any:
        name = info.data.get("anonymizer")
        if name is None:
            return Options()
        model = ANONYMIZERS.get(name, scope=cls.modality).Options
        if isinstance(options, Options) and not isinstance(options, model):
            options = options.model_dump(exclude_unset=True)
        return model.model_validate(options, context=info.context)

    def carried_over(self, anonymizer: str) -> dict[str, Any]:
        """Options that differ from their defaults, and the form, as far as another anonymizer has them, too."""
        try:
            declared = ANONYMIZERS.get(anonymizer, scope=self.modality)
        except StudyError:
            return {}  # the name is refused where the study is parsed
        plain = type(self.options)()
        changed = {key: value for key, value in self.options.model_dump().items() if value != getattr(plain, key)}
        kept = {"options": {key: value for key, value in changed.items() if key in declared.Options.model_fields}}
        return kept | ({"form": self.form} if self.form in declared.forms else {})

    def site_training(self) -> SiteTrainingPlan | None:
        """Plan of an encoder that sites train together before they release this modality; None without one."""
        return self.options.site_training() if self.enabled else None


class VoiceSection(ModalitySection):
    """`[voice]`: how voice is anonymized and modelled."""

    modality = "voice"

    anonymizer: str = "mfcc-quantizer"
    """The anonymizer of voice; docs/anonymizers.md lists all."""
    model: str = "statistics"
    """The emotion model that is trained on releases: `cnn`, `layered` or `statistics`."""
    weight: Fraction = 0.6
    """Weight of voice in the late fusion; the rest is the face's."""


class FaceSection(ModalitySection):
    """`[face]`: how faces are anonymized and modelled."""

    modality = "face"

    anonymizer: str = "autoencoder"
    """The anonymizer of faces; docs/anonymizers.md lists all."""
    model: str = "gradients"
    """The emotion model that is trained on releases: `cnn` or `gradients`."""
    fps: Positive = 5.0
    """Frames released per second of clip."""


FLAT_KEYS: dict[Modality, dict[str, Any]] = {
    "voice": {
        "preset": "bounded",
        "epsilon": 0.8,
        "sensitivity": 0.5,
        "bound": 3.0,
        "budget_epsilon": 8.0,
        "budget_delta": 1e-5,
        "segments": 1,
        "released_clips": None,
        "codebook": "public",
        "codebook_size": 64,
        "coefficients": 13,
        "code_size": 5,
        "code_noise": 0.5,
        "code_encoder": "directions",
        "code_training": "public",
        "code_unit": "speaker",
        "code_epsilon": 4.0,
        "code_rounds": 20,
        "labels_from": "site",
        "label_epsilon": 3.5,
        "public_speech": None,
    },
    "face": {
        "preset": "small",
        "noise": 0.1,
        "clip_noise": 0.7,
        "frame_noise": 0.7,
        "weights": None,
        "epochs": 12,
        "training_faces": 600,
    },
}
"""Keys that stood in [voice] and [face] themselves, with their defaults. Now they are options of an anonymizer."""
_BUDGET_PRESETS = ("dp-clip", "dp-speaker")
"""Values of `voice.preset` that chose the anonymizer `clip-quantizer` where the study named none."""


def _without_flat_keys(modality: Modality, content: dict[str, Any], name: str) -> dict[str, Any]:
    """Content of [voice] or [face] in which keys of before stand among the options of the anonymizer.

    A key that the anonymizer has not is dropped where it has its former default, and else left: the schema refuses it.
    """
    defaults = FLAT_KEYS[modality]
    moved = {key: value for key, value in content.items() if key not in defaults}
    flat = {key: content[key] for key in defaults if key in content}
    budgeted = flat.get("preset") in _BUDGET_PRESETS
    if budgeted and name == "mfcc-quantizer":
        moved["anonymizer"] = name = "clip-quantizer"
    try:
        declared = ANONYMIZERS.get(name, scope=modality)
    except StudyError:
        return content  # the schema refuses an anonymizer that is not known
    known = declared.Options.model_fields
    if moved.get("form") == "mfcc" and "mfcc" not in declared.forms:
        del moved["form"]  # it was the default of all anonymizers
    options = dict(moved.get("options") or {})
    if budgeted:  # the options may be those of the anonymizer that was named before
        options = {key: value for key, value in options.items() if key in known}
    options |= {key: value for key, value in flat.items() if key in known}
    moved |= {key: value for key, value in flat.items() if key not in known and value != defaults[key]}
    if found := ", ".join(key for key in flat if key in options):
        place = "%s of [%s] now stands in [%s.options]; the old place is read in this version only"
        _log.warning(place, found, modality, modality)
    return {**moved, "options": options}
