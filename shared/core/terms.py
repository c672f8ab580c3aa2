"""Terms that every part shares: modalities, released forms, units of privacy, and the statement of one figure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["voice", "face"]
MODALITIES: tuple[Modality, ...] = ("voice", "face")
VoiceForm = Literal["tokens", "mfcc", "waveform", "code", "code-sequence", "code-tokens"]
"""tokens: int32 [frames]; mfcc: float32 [frames, coefficients]; waveform: float32 [samples] at 16 kHz in [-1, 1].

A code is a vector of any meaning: a learned one, or statistics. code: float32 [d], one a clip; code-sequence: float32
[steps, d]; code-tokens: int32 [steps], entries of a codebook of codes, one step where one token stands for a clip.
"""
CODE_FORMS: tuple[VoiceForm, ...] = ("code", "code-sequence", "code-tokens")
"""Forms that neither sound nor pictures can be made of."""
CODEBOOK_FORMS: tuple[VoiceForm, ...] = ("tokens", "code-tokens")
"""Forms that cannot be read without a codebook."""
FaceForm = Literal["frames", "code", "code-sequence"]
"""frames: uint8 [frames, height, width, 3], RGB; codes as of voice."""

PrivacyUnit = Literal["value", "frame", "clip", "speaker", "site"]


class Strict(BaseModel):
    """Base of all records that cross a border: frozen, of exact types, and unknown keys are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$", max_length=200)]
"""One line: it may stand in a report or in a log."""
Note = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$", max_length=2_000)]


class PrivacyStatement(Strict):
    """One privacy figure and its unit: `epsilon` is what the mechanism guarantees, None where that is nothing finite.

    `nominal` is what its own parameters claim when composed to the same unit.
    """

    mechanism: Line
    unit: PrivacyUnit
    epsilon: float | None = Field(ge=0)
    delta: float = Field(default=0.0, ge=0, lt=1)
    nominal: float | None = Field(default=None, ge=0)
    note: Note = ""
