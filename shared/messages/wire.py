"""Flower messages between stages and sites: names of the calls, keys of the records, arrays in and out.

Records cannot hold nested values, so structured content travels as JSON text in a `ConfigRecord`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.study.schema import Study, parse_study
from moretta.shared.study.sections import ModelKind

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

HELLO = "query.hello"
CODE = "train.code"
OFFER = "query.offer"
RELEASE = "query.release"
FETCH = "query.fetch"
TRAIN: dict[ModelKind, str] = {"voice": "train.voice", "face": "train.face", "fusion": "train.fusion"}
EVALUATE = "evaluate.emotion"
ATTACK = "query.attack"
SECURE_KEYS, SECURE_SHARES, SECURE_UNMASK = "query.secure_keys", "query.secure_shares", "query.secure_unmask"
"""Calls before and after the training of a round under secure aggregation."""

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
MASKED = "masked"
"""The one array of an update under masks: uint32 [values]."""
MAX_PACKED_BYTES = 2**20
MAX_ARRAYS = 4096
"""Arrays under one name."""
_ARRAY_KEYS = frozenset({ARRAYS, *(f"{ARRAYS}-{kind}" for kind in TRAIN)})
_STYPE = "numpy.ndarray"
LEVELS, MAX_TRIALS = 101, 200
"""Steps from -1 to 1 to which scores of an attack at a site are rounded; most comparisons of one kind."""
CHUNK_BYTES = 8 * 2**20
"""Most bytes of a release that one message carries."""

_Kind = TypeVar("_Kind", bound=ModelKind)


class FilePart(NamedTuple):
    """Part of a file of a release, in bytes."""

    file: str
    offset: int
    length: int


def arrays_to_record(arrays: dict[str, Array]) -> ArrayRecord:
    """NumPy arrays as a Flower record, in order of their names."""
    from flwr.app import Array as FlowerArray
    from flwr.app import ArrayRecord

    return ArrayRecord({name: FlowerArray(np.ascontiguousarray(arrays[name])) for name in sorted(arrays)})


def arrays_of(content: RecordDict, key: str = ARRAYS) -> dict[str, Array]:
    """The arrays under one key of a message, read with pickling off; raises ReleaseError where one cannot be read."""
    from flwr.app import ArrayRecord

    record = content.get(key)
    if not isinstance(record, ArrayRecord):
        raise ReleaseError(f"a message without arrays under {key!r}", expected="a message of this version")
    return {name: _read_array(name, array.stype, array.data) for name, array in record.items()}


def _read_array(name: str, stype: str, data: Any) -> Array:
    try:
        return _parsed(stype, data)
    except Exception as error:  # NumPy raises many kinds for bytes that are no array
        raise ReleaseError(f"an array {name[:80]!a} that cannot be read", expected="a NumPy array") from error


def _parsed(stype: str, data: bytes) -> Array:
    """NumPy's own format, of numbers alone and of the length that it says: NumPy would make room before it looks."""
    file = BytesIO(data)
    if stype != _STYPE or np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("no NumPy array of format 1.0")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError("an array of another type or length than it says")
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if by_column else "C").copy()


def packed(content: RecordDict) -> RecordDict:
    """A message on its way out: small arrays that belong together as one record of bytes.

    Flower sends every array as two objects, each by a call of its own: those of a small model take longer than its
    training. Larger ones stay, since Flower sends them in pieces.
    """
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    sent = RecordDict()
    for key, record in content.items():
        if key in _ARRAY_KEYS and isinstance(record, ArrayRecord) and _is_small(a.data for a in record.values()):
            sent[key] = ConfigRecord({name: array.data for name, array in record.items()})
        else:
            sent[key] = record
    return sent


def unpacked(content: RecordDict) -> RecordDict:
    """A message that has come, as it was before `packed`; raises ReleaseError where an array cannot be read.

    It raises the same where `packed` would have made no such record. To read an array takes longer than to send its
    60 bytes, so what a record may hold is checked before it is read.
    """
    from flwr.app import Array as FlowerArray
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    given = RecordDict()
    for key, record in content.items():
        if key in _ARRAY_KEYS and isinstance(record, ConfigRecord):
            if not _is_small(data for data in record.values() if isinstance(data, bytes)):
                found = f"a record of {len(record)} arrays that cannot be read: too many, or too large"
                raise ReleaseError(found, expected=f"at most {MAX_ARRAYS} arrays and {MAX_PACKED_BYTES} bytes")
            arrays = {name: _read_array(name, _STYPE, data) for name, data in record.items()}
            given[key] = ArrayRecord({name: FlowerArray(array) for name, array in arrays.items()})
        else:
            given[key] = record
    return given


def _is_small(arrays: Iterable[bytes]) -> bool:
    """Whether the arrays of one record travel packed."""
    sizes = [len(data) for data in arrays]
    return len(sizes) <= MAX_ARRAYS and sum(sizes) <= MAX_PACKED_BYTES


def models_to_records(models: Mapping[Any, dict[str, Array]]) -> dict[str, ArrayRecord]:
    """Whole models beside each other in one message, each under its own key."""
    return {f"{ARRAYS}-{kind}": arrays_to_record(arrays) for kind, arrays in models.items()}


def models_of(content: RecordDict, kinds: Iterable[_Kind]) -> dict[_Kind, dict[str, Array]]:
    """The arrays of these models in a message, if it has them; raises ReleaseError where one cannot be read."""
    return {kind: arrays_of(content, f"{ARRAYS}-{kind}") for kind in kinds if f"{ARRAYS}-{kind}" in content}


def number_of(content: RecordDict, key: str, default: float | None = None) -> float:
    """A plain number that a Flower strategy put into the config; raises ReleaseError where there is none."""
    from flwr.app import ConfigRecord

    record = content.get(CONFIG)
    value = record.get(key, default) if isinstance(record, ConfigRecord) else default
    if not isinstance(value, int | float):
        raise ReleaseError(f"a message without the number {key!r}", expected="a message of this version")
    return value


def json_config(**values: Any) -> ConfigRecord:
    """A config record in which every value is JSON text, except bytes, which stay bytes."""
    from flwr.app import ConfigRecord

    return ConfigRecord(
        {k: v if isinstance(v, bytes) else json.dumps(v, sort_keys=True, allow_nan=False) for k, v in values.items()}
    )


def from_config(content: RecordDict, key: str) -> Any:
    """One value that `json_config` packed; raises ReleaseError where it is missing or not JSON."""
    try:
        value: Any = content[CONFIG][key]
        return value if isinstance(value, bytes) else json.loads(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"a message without a readable {key!r}", expected="a message of this version") from error


def study_config(study: Study, **values: Any) -> ConfigRecord:
    """A config record that carries the study, for the site to check."""
    return json_config(study=study.for_sites(), **values)


def study_of(content: RecordDict) -> Study:
    """The study that a message carries, checked as a study file is; raises StudyError also if it names a file.

    No path of a message is ever opened.
    """
    study = parse_study(from_config(content, "study"), source="the study in a message")
    if study.paths:
        raise StudyError(
            f"a study in a message that names files by {', '.join(study.paths)}",
            expected="arrays made of them, and no path",
        )
    return study
