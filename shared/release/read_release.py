"""Read a release and believe nothing in it: every array is checked on arrival, a bad clip is dropped and counted.

The head of a safetensors file is checked before the library reads it: the library takes a head of 100 MB. A head has
the size and the shapes that a shard of a release can have, and its arrays lie one behind the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import CODEBOOK_FORMS, MODALITIES, Modality
from moretta.shared.release.release_format import (
    CLIPS_FILE,
    CODEBOOK_FILE,
    MAX_CLIP_LINE,
    MAX_CLIPS,
    MAX_CODE,
    MAX_CODEBOOK,
    STATEMENT_FILE,
    AnonymizerStatement,
    ReleasedClip,
    ReleaseStatement,
    check_array,
    shard_of,
)

_MAX_STATEMENT_BYTES = 1 << 20
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 65_536
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "I8", "U8", "BOOL"), 1),
}
"""Bytes of a value, by type. Type and shape of an array are checked when it is read."""
_MAX_DIMENSIONS = 4
_MAX_SIDE = 1 << 31


class Release:
    """A release on disk. Arrays are read one by one; `damaged` counts what could not be used, by reason."""

    def __init__(self, folder: Path, statement: ReleaseStatement, clips: tuple[ReleasedClip, ...]) -> None:
        self.folder, self.statement, self.clips = folder, statement, clips
        self.damaged: Counter[str] = Counter()

    def anonymizer(self, modality: Modality) -> AnonymizerStatement | None:
        """The statement of one modality, None if nothing of it was released."""
        return next((a for a in self.statement.anonymizers if a.modality == modality), None)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of which any clip was released, voice first."""
        return tuple(m for m in MODALITIES if any(getattr(clip, m) is not None for clip in self.clips))

    @cached_property
    def codebook(self) -> Float32 | None:
        """The voice codebook, float32 [k, coefficients], if the release has one."""
        path = self.folder / CODEBOOK_FILE
        if not path.exists():
            return None
        codebook = _read_tensor(path, "codebook")
        fits = codebook.dtype == np.float32 and codebook.ndim == 2 and codebook.size > 0
        if not fits or len(codebook) > MAX_CODEBOOK or codebook.shape[1] > MAX_CODE:
            raise ReleaseError(f"a codebook of {codebook.dtype} {list(codebook.shape)}", expected="float32 [k, n]")
        if not np.isfinite(codebook).all():
            raise ReleaseError("a codebook with values that are not finite", expected="finite values")
        return codebook

    def arrays(self, modality: Modality) -> Iterator[tuple[ReleasedClip, Array]]:
        """Every usable array of one modality with its clip; damaged ones are counted and left out."""
        statement = self.anonymizer(modality)
        if statement is None:
            return
        self.damaged.pop(f"{modality}-damaged", None)  # counted anew on every pass
        for clip in self.clips:
            if getattr(clip, modality) is None:
                continue
            try:
                array = self.array(modality, clip)
            except ReleaseError:
                self.damaged[f"{modality}-damaged"] += 1
                continue
            yield clip, array

    def array(self, modality: Modality, clip: ReleasedClip) -> Array:
        """One array, of the form that the statement names. Raises ReleaseError: it was not released, cannot be read, or
        breaks the format."""
        statement, file = self.anonymizer(modality), shard_of(clip, modality)
        if statement is None or file is None:
            raise ReleaseError(f"no {modality} of clip {clip.clip}", expected=f"one of: {', '.join(self.modalities)}")
        array = _read_tensor(self.folder / file, clip.clip)
        size = None if self.codebook is None else len(self.codebook)
        check_array(modality, statement.form, array, codebook_size=size)
        return array


def open_release(folder: Path) -> Release:
    """Open a release folder.

    Raises:
        ReleaseError: no release is there, or its statement or clip list breaks the format.
    """
    if not (folder / STATEMENT_FILE).is_file():
        raise ReleaseError(
            f"no {STATEMENT_FILE} in {folder}",
            expected="a folder that `moretta anonymize` or a site finished writing",
            fix="name the release folder itself, or write the release again",
        )
    try:
        statement = ReleaseStatement.model_validate_json(_text(folder / STATEMENT_FILE))
        clips = tuple(_clips(folder / CLIPS_FILE))
    except (ValidationError, OSError, ValueError, RecursionError) as error:
        raise ReleaseError(
            f"a release in {folder} that breaks the format: {_why(error)}", expected="format version 1"
        ) from error
    if len({c.clip for c in clips}) != len(clips):
        raise ReleaseError(f"two clips of one pseudonym in {folder}", expected="each clip once")
    release = Release(folder, statement, clips)
    coded = any(a.modality == "voice" and a.form in CODEBOOK_FORMS for a in statement.anonymizers)
    if coded and release.codebook is None:
        raise ReleaseError(f"tokens without a codebook in {folder}", expected=CODEBOOK_FILE)
    return release


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(_MAX_STATEMENT_BYTES + 1)
    if len(text) > _MAX_STATEMENT_BYTES:
        raise ValueError(f"{path.name} of more than {_MAX_STATEMENT_BYTES} bytes")
    return text


def _clips(path: Path) -> Iterator[ReleasedClip]:
    with path.open("rb") as file:
        for number in range(1, MAX_CLIPS + 2):
            line = file.readline(MAX_CLIP_LINE + 1)
            if not line:
                return
            if len(line) > MAX_CLIP_LINE or number > MAX_CLIPS:
                raise ValueError(f"more than {MAX_CLIPS} clips, or one of more than {MAX_CLIP_LINE} bytes")
            if line.strip():
                yield ReleasedClip.model_validate_json(line)


def _why(error: Exception) -> str:
    """The kind of an error, without the text that was found: it may be anything, and this goes into reports."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'][:6])[:80]!a}: {first['msg']}"
    return str(error)[:200]


def _read_tensor(path: Path, key: str) -> Array:
    try:
        check_header(path)
        with safe_open(path, framework="numpy") as file:
            tensor: Array = file.get_tensor(key)
            return tensor
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise ReleaseError(
            f"{path.name} cannot be read: {str(error)[:200]}", expected=f"a safetensors file with {key}"
        ) from error


def check_header(path: Path) -> None:
    """Check the head of one file, once for each state of the file.

    Raises:
        ReleaseError: naming what is wrong.
        OSError: the file cannot be read.
    """
    found = path.stat()
    _check(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1024)
def _check(path: Path, changed: int, size: int) -> None:
    del changed
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ReleaseError(f"a head of {length} bytes in {path.name}", expected=f"at most {MAX_HEADER_BYTES}")
        text = file.read(length)
    place = 0
    for start, end, needed in sorted(_tensors(text, path.name)):
        if start != place or end - start != needed:
            raise ReleaseError(f"an array out of place in {path.name}", expected="no gap, no overlap")
        place = end
    if place != size - 8 - length:
        raise ReleaseError(f"{size - 8 - length} bytes of arrays in {path.name}", expected=f"{place}")


def _tensors(text: bytes, file: str) -> Iterator[tuple[int, int, int]]:
    """Start, end, and length by shape and type of every array."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"a head that is no JSON in {file}", expected="a safetensors file") from error
    if not isinstance(head, dict) or len(head) > MAX_TENSORS:
        raise ReleaseError(f"a head that is no list of arrays in {file}", expected=f"at most {MAX_TENSORS} arrays")
    head.pop("__metadata__", None)
    for entry in head.values():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sound = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and dtype in _BYTES
            sound = sound and all(type(side) is int and 0 <= side < _MAX_SIDE for side in (*shape, start, end))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ReleaseError(f"an array of another type or shape in {file}", expected=f"one of {', '.join(_BYTES)}")
        yield start, end, math.prod(shape) * _BYTES[dtype]
