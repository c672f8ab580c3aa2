"""`[voice]` and `[face]` of the study file: what is common to all anonymizers, and the options of the one named."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.study.former_names import move_flat_keys
from moretta.shared.study.options import ANONYMIZERS, Options, SiteTrainingPlan
from moretta.shared.study.sections import Fraction, Positive, Section


class ModalitySection(Section):
    """How one modality is anonymized and modelled."""

    modality: ClassVar[Modality]

    enabled: bool = True
    anonymizer: str
    form: str = Field(default="", validate_default=True)
    """What leaves the site; by default the first form that the anonymizer has."""
    options: SerializeAsAny[Options] = Field(default_factory=Options, validate_default=True)
    """Of the anonymizer, checked by its own model."""
    model: str

    @model_validator(mode="before")
    @classmethod
    def _former_keys_are_moved(cls, content: Any) -> Any:
        name = cls.model_fields["anonymizer"].default
        return move_flat_keys(cls.modality, content, common=cls.model_fields, anonymizer=name)

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
        """What sites train together before they release this modality."""
        return self.options.site_training() if self.enabled else None


class VoiceSection(ModalitySection):
    """`[voice]`: how voice is anonymized and modelled."""

    modality = "voice"

    anonymizer: str = "mfcc-quantizer"
    model: str = "statistics"
    weight: Fraction = 0.6
    """Weight of voice in the late fusion; the rest is the face's."""


class FaceSection(ModalitySection):
    """`[face]`: how faces are anonymized and modelled."""

    modality = "face"

    anonymizer: str = "autoencoder"
    model: str = "gradients"
    fps: Positive = 5.0
    """Frames released per second of clip."""
