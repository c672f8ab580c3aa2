"""The head of a safetensors file, checked before the library reads it.

The library takes a head of 100 MB. Here a head has the size and the shapes that a shard of a release can have, and its
arrays lie one behind the other, as the library writes them.
"""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from moretta.shared.core.errors import ReleaseError

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 65_536
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "I8", "U8", "BOOL"), 1),
}
"""Bytes of a value, by type. What an array of a release must be is checked when it is read."""
_MAX_DIMENSIONS = 4
_MAX_SIDE = 1 << 31


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


def _tensors(text: bytes, file: str) -> list[tuple[int, int, int]]:
    """Start, end, and length by shape and type of every array."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"a head that is no JSON in {file}", expected="a safetensors file") from error
    if not isinstance(head, dict) or len(head) > MAX_TENSORS:
        raise ReleaseError(f"a head that is no list of arrays in {file}", expected=f"at most {MAX_TENSORS} arrays")
    return [_tensor(entry, file) for name, entry in head.items() if name != "__metadata__"]


def _tensor(entry: Any, file: str) -> tuple[int, int, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sides = [*shape, start, end]
        sound = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and dtype in _BYTES
        sound = sound and all(type(side) is int and 0 <= side < _MAX_SIDE for side in sides)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ReleaseError(f"an array of another type or shape in {file}", expected=f"one of {', '.join(_BYTES)}")
    return start, end, math.prod(shape) * _BYTES[dtype]
