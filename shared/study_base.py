"""What all sections of a study file have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Frozen; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    removed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _no_removed_key(cls, content: Any) -> Any:
        found = [key for key in cls.removed if isinstance(content, dict) and key in content]
        if found:
            raise ValueError("; ".join(f"{key} was removed: {cls.removed[key]}" for key in found))
        return content
