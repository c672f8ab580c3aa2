"""What all sections of a study file have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Epsilon = Annotated[float, Field(ge=1e-9, le=1e9)]
Delta = Annotated[float, Field(ge=1e-15, lt=0.1)]
"""Both as far as the bounds of `shared/privacy` hold in float64: beyond, rounding could state less than is true."""
Computable = Annotated[float, Field(ge=1e-6, le=1e6)]
"""What gradients are cut to and multiplied by: below and above, float32 cannot hold what comes of it."""


class Section(BaseModel):
    """Frozen; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
