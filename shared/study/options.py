"""Options of an anonymizer: a model that the anonymizer's own file defines, found by name when a study is parsed.

Anonymizers are plug-ins. They are looked up at run time and never imported here, so that the coordinator, a site and
whoever reads the plan of a run check options alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self

from pydantic import AfterValidator, ValidationInfo

from moretta.shared.core.errors import StudyError
from moretta.shared.core.plugins import Registry
from moretta.shared.study.sections import Section


def _anchored(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else (Path(folder) / path).resolve()


StudyPath = Annotated[Path, AfterValidator(_anchored)]
"""A path in a study file. It is relative to the file, and made absolute when the file is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTrainingPlan:
    """What an anonymizer has the sites train together before they release."""

    rounds: int
    unit: Literal["clip", "speaker"]
    """Whom the guarantee is for: each is one example, with a clipped gradient."""
    epsilon: float
    """Target for one unit over all rounds; 0 trains without noise and guarantees nothing."""
    delta: float
    epsilon_key: str = "epsilon"
    """The option that has it."""


class Options(Section):
    """Base of the options of every anonymizer. Each field has a default; unknown keys are errors."""

    @classmethod
    def of(cls, options: Options) -> Self:
        """Options of a study as this model: `MyOptions.of(study.voice.options)`.

        Raises:
            StudyError: they are those of another anonymizer.
        """
        if not isinstance(options, cls):
            raise StudyError(f"{type(options).__name__} of another anonymizer", expected=cls.__name__)
        return options

    def paths(self) -> dict[str, Path]:
        """Files and folders that the options name. They are on the coordinator's machine; no site sees them."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Path)}

    def without_paths(self) -> Self:
        """The same options without these."""
        return self.model_copy(update=dict.fromkeys(self.paths()))

    def site_training(self) -> SiteTrainingPlan | None:
        """What sites train together before they release. Default: nothing."""
        return None


class DeclaresOptions(Protocol):
    """What the study file needs to know of an anonymizer."""

    Options: ClassVar[type[Options]]
    forms: ClassVar[tuple[str, ...]]
    """What it can release, in the terms of the release format. The first is the default."""


ANONYMIZERS: Registry[type[DeclaresOptions]] = Registry(
    "anonymizer", group="moretta.anonymizers", package="moretta.client.anonymizers", error=StudyError
)
