"""The parts of a release, and the limits every array in it must keep."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import ClassName, Code
from moretta.shared.core.terms import (
    CODEBOOK_FORMS,
    Line,
    Modality,
    PrivacyStatement,
    Strict,
)
from moretta.shared.study.former_names import current_anonymizer, current_parameters

FORMAT_VERSION: Literal[1] = 1
STATEMENT_FILE = "statement.json"
CLIPS_FILE = "clips.jsonl"
CODEBOOK_FILE = "codebook.safetensors"
SHARD_BYTES = 16 * 2**20
MAX_SHARD_BYTES = 64 * 2**20
MAX_CLIP_SECONDS = 120.0
MAX_VOICE_FRAMES = int(MAX_CLIP_SECONDS * 100)
MAX_SAMPLES = int(MAX_CLIP_SECONDS * 16_000)
MIN_SAMPLES = 400
"""Fewest samples of sound, one window of 25 ms: less cannot be measured."""
MAX_FACE_FRAMES = 4_096
MAX_FACE_SIDE = 512
MAX_COEFFICIENTS = 128
MAX_CODEBOOK = 65_536
MAX_CODE = 2_048
"""Values in one code."""
MAX_FILES = 10_000
"""Most files of one release."""
MAX_CLIPS = 1_000_000
MAX_CLIP_LINE = 1_024
"""Bytes of one line of the clip list."""
_MAX_PARAMETERS = 16_384
"""Characters of an anonymizer's parameters as JSON."""

AgeGroup = Literal["young", "middle", "old"]
_AGE_GROUPS: tuple[tuple[int, AgeGroup], ...] = ((30, "young"), (50, "middle"))
"""Upper age in years (exclusive) of each group; beyond is old."""

Pseudonym = str
_PSEUDONYM_PATTERN = r"^[0-9a-f]{16}$"


_Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9 _./-]{1,100}$")]
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class AnonymizerStatement(Strict):
    """The anonymizer of one modality, with its parameters and guarantees."""

    modality: Modality
    name: Line
    version: Line
    form: Line
    parameters: Annotated[dict[str, Any], Field(max_length=100)]
    privacy: Annotated[tuple[PrivacyStatement, ...], Field(max_length=50)] = ()
    noise: Literal["system", "seeded", "none"]
    """`seeded` noise can be subtracted by anybody with the seed: simulation and tests only."""
    counts: Annotated[dict[_Key, _Count], Field(max_length=100)] = Field(default_factory=dict)
    """Facts for the report, such as frames in which no face was found."""

    @field_validator("name", mode="before")
    @classmethod
    def _current_name(cls, value: Any) -> Any:
        return current_anonymizer(value) if isinstance(value, str) else value

    @field_validator("parameters", mode="before")
    @classmethod
    def _current_parameters(cls, value: Any) -> Any:
        return current_parameters(value) if isinstance(value, dict) else value

    @field_validator("parameters")
    @classmethod
    def _few_finite_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, allow_nan=False)) > _MAX_PARAMETERS:
            raise ValueError(f"parameters of more than {_MAX_PARAMETERS} characters")
        return value


class ReleaseStatement(Strict):
    """A site's statement of its release."""

    format: Literal[1] = FORMAT_VERSION
    site: Line
    study: Line = ""
    """Digest of the study file the release was made for."""
    anonymizers: Annotated[tuple[AnonymizerStatement, ...], Field(max_length=2)]
    clips: _Count
    speakers: _Count
    dropped: Annotated[dict[_Key, _Count], Field(max_length=1_000)] = Field(default_factory=dict)
    """Clips or modalities that were not released, counted by reason."""


class ReleasedClip(Strict):
    """One clip as the server sees it. `sex` and `age_group` are there only if the study audits attributes."""

    clip: Pseudonym = Field(pattern=_PSEUDONYM_PATTERN)
    speaker: Pseudonym = Field(pattern=_PSEUDONYM_PATTERN)
    emotion: ClassName
    """One of the study's classes."""
    sentence: Code | Literal[""]
    """Short name; empty if it is not known, as the level."""
    level: Code | Literal[""]
    voice: int | None = Field(default=None, ge=0, lt=MAX_FILES)
    """Index of the voice shard, None if this clip has no released voice."""
    face: int | None = Field(default=None, ge=0, lt=MAX_FILES)
    sex: Literal["female", "male"] | None = None
    age_group: AgeGroup | None = None


def shard_of(clip: ReleasedClip, modality: Modality) -> str | None:
    """Name of the file with a clip's array, under the clip's pseudonym; None if nothing was released."""
    shard: int | None = getattr(clip, modality)
    return None if shard is None else f"{modality}-{shard:05d}.safetensors"


def age_group(age: int | None) -> AgeGroup | None:
    """The group of an age in years; None if it is not known."""
    return None if age is None else next((group for limit, group in _AGE_GROUPS if age < limit), "old")


def check_array(modality: Modality, form: str, array: Array, *, codebook_size: int | None = None) -> None:
    """Check one released array: dtype, shape, size, range and finiteness. Raises ReleaseError: naming what is wrong."""
    rule = {
        ("voice", "tokens"): (np.int32, 1, (MAX_VOICE_FRAMES,)),
        ("voice", "mfcc"): (np.float32, 2, (MAX_VOICE_FRAMES, MAX_COEFFICIENTS)),
        ("voice", "waveform"): (np.float32, 1, (MAX_SAMPLES,)),
        ("voice", "code"): (np.float32, 1, (MAX_CODE,)),
        ("voice", "code-sequence"): (np.float32, 2, (MAX_VOICE_FRAMES, MAX_CODE)),
        ("voice", "code-tokens"): (np.int32, 1, (MAX_VOICE_FRAMES,)),
        ("face", "code"): (np.float32, 1, (MAX_CODE,)),
        ("face", "code-sequence"): (np.float32, 2, (MAX_FACE_FRAMES, MAX_CODE)),
        ("face", "frames"): (np.uint8, 4, (MAX_FACE_FRAMES, MAX_FACE_SIDE, MAX_FACE_SIDE, 3)),
    }.get((modality, form))
    if rule is None:
        raise ReleaseError(f"the released form {modality}/{form}", expected="a form of this format version")
    dtype, dimensions, limits = rule
    what = f"a {modality}/{form} array of {array.dtype} {list(array.shape)}"
    if array.dtype != dtype or array.ndim != dimensions:
        raise ReleaseError(what, expected=f"{np.dtype(dtype)} with {dimensions} dimensions")
    if array.nbytes > MAX_SHARD_BYTES:
        raise ReleaseError(
            f"{what}, {array.nbytes} bytes", expected=f"at most {MAX_SHARD_BYTES}", fix="shorten the clip"
        )
    if array.size == 0 or any(side > limit for side, limit in zip(array.shape, limits, strict=True)):
        raise ReleaseError(what, expected=f"1 to {list(limits)} entries")
    if form == "frames" and array.shape[-1] != 3:
        raise ReleaseError(what, expected="three colour channels")
    if np.issubdtype(dtype, np.floating) and not np.isfinite(array).all():
        raise ReleaseError(f"{what} with values that are not finite", expected="finite values")
    if form == "waveform" and np.abs(array).max() > 1.0:
        raise ReleaseError(f"{what} beyond [-1, 1]", expected="samples in [-1, 1]")
    if form == "waveform" and len(array) < MIN_SAMPLES:
        raise ReleaseError(what, expected=f"at least {MIN_SAMPLES} samples")
    if form in CODEBOOK_FORMS and (array.min() < 0 or (codebook_size is not None and array.max() >= codebook_size)):
        raise ReleaseError(f"{what} with tokens outside the codebook", expected=f"0 to {codebook_size} exclusive")
