"""One figure of a judge of emotion."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moretta.shared.audit.utility.evaluator_registry import Kind
from moretta.shared.core.terms import Modality

SetName = Literal["original", "released"]


class EmotionRow(BaseModel):
    """What one judge still reads. `uar` is None where it could not be asked, with the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    modality: Modality
    evaluator: str
    kind: Kind
    trained_on: Literal["original", "released", "public"]
    evaluated_on: SetName
    uar: float | None
    """Unweighted average recall over the emotions that occur."""
    low: float | None = None
    high: float | None = None
    chance: float
    speakers: int = Field(ge=0)
    clips: int = Field(ge=0)
    reason: str = ""
