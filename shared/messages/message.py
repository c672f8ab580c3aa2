"""The base of all messages: bounded types, and the function that reads a message or refuses it.

Content travels as JSON text in a `ConfigRecord`, numbers of a training in a `MetricRecord`, arrays in `ArrayRecord`s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.shared.core.errors import MessageError
from moretta.shared.core.printable import printable
from moretta.shared.messages.wire import CONFIG, MAX_ARRAYS, METRICS

if TYPE_CHECKING:
    from flwr.app import RecordDict

KIB, MIB = 1 << 10, 1 << 20
MAX_DEPTH = 16
"""Lists and objects within each other. No message of this version has more than eight."""
MAX_KEYS = 64
"""Values in a config record."""
_MAX_DIGITS = 20
"""Most digits of a whole number: no count needs more."""
SHOWN = 200
"""Characters of what somebody sent that an error or a log repeats."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Name of a site. Releases are kept in folders of these names."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=8192)]
"""Bytes as text."""
Pseudonym = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Word = Annotated[str, Field(pattern=r"^[ -~]{1,200}$")]
"""One line of plain characters: it may stand in a log or in a report."""
Count = Annotated[int, Field(ge=0, le=10_000_000)]
"""Number of clips, speakers or pictures. Sums of as many as a message can hold stay far below 2^63."""
Figure = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""A number that is not negative, such as a loss or an epsilon."""
Round = Annotated[int, Field(ge=1, le=1_000_000)]


class Message(BaseModel):
    """Base of all messages: unknown fields and other types are errors, and no number is infinite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    max_text_bytes: ClassVar[int] = 64 * KIB
    """Most bytes of all its JSON together."""
    max_array_bytes: ClassVar[int] = 0
    """Most bytes of all its arrays together."""
    arrays: ClassVar[frozenset[str]] = frozenset()
    """Names under which it may carry arrays; who uses them checks them against what they must be."""
    blobs: ClassVar[Mapping[str, int]] = {}
    """Fields that travel as bytes, and how many at most."""

    @classmethod
    def max_bytes(cls) -> int:
        """Most bytes of the whole message: nothing larger is fetched."""
        return cls.max_text_bytes + cls.max_array_bytes + sum(cls.blobs.values()) + MIB


M = TypeVar("M", bound=Message)


def read(kind: type[M], content: RecordDict) -> M:
    """A message of this kind, whole and checked.

    Size and depth are checked before any JSON is parsed, and types and bounds of every field before any is used.
    Whatever the other side sent, no other error than MessageError comes out of here.
    """
    try:
        _check_arrays(kind, content)
        values, blobs = _config(kind, content)
        values |= _metrics(kind, content, values)
        message = kind.model_validate_json(json.dumps(values))
        return message.model_copy(update=blobs) if blobs else message
    except MessageError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(printable(part, most=40) for part in first["loc"][:6]) or "the whole"
        more = "" if error.error_count() == 1 else f", and {error.error_count() - 1} more"
        raise _refused(kind, f"{place}: {printable(first['msg'], most=SHOWN)}{more}") from error
    except Exception as error:  # nothing that the other side can send may end more than its own part
        raise _refused(kind, f"it cannot be read ({type(error).__name__})") from error


def _refused(kind: type[Message], why: str) -> MessageError:
    return MessageError(f"a message that is no {kind.__name__}: {why}", expected="a message of this version")


def _check_arrays(kind: type[Message], content: RecordDict) -> None:
    from flwr.app import ArrayRecord

    total = 0
    for name, record in content.items():
        if name in (CONFIG, METRICS):
            continue
        if name not in kind.arrays:
            raise _refused(kind, f"a record {printable(name, most=40)!r}")
        if not isinstance(record, ArrayRecord) or len(record) > MAX_ARRAYS:
            raise _refused(kind, f"{name} is not at most {MAX_ARRAYS} arrays")
        total += sum(len(array.data) for array in record.values())
    if total > kind.max_array_bytes:
        raise _refused(kind, f"arrays of {total} bytes, at most {kind.max_array_bytes} are taken")


def _config(kind: type[Message], content: RecordDict) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The values of a message that were sent as JSON, and those that were sent as bytes."""
    from flwr.app import ConfigRecord

    config = content.get(CONFIG)
    if not isinstance(config, ConfigRecord):
        raise _refused(kind, "no config record")
    if len(config) > MAX_KEYS:
        raise _refused(kind, f"{len(config)} values")
    left, values, blobs = kind.max_text_bytes, {}, {}
    for name, value in config.items():
        if name in kind.blobs:
            if not isinstance(value, bytes) or len(value) > kind.blobs[name]:
                raise _refused(kind, f"{name} is not at most {kind.blobs[name]} bytes")
            blobs[name] = value
        elif isinstance(value, str):
            left -= len(value)
            if left < 0:
                raise _refused(kind, f"more than {kind.max_text_bytes} characters of text")
            values[name] = parse_json(value, what=kind.__name__)
        elif isinstance(value, bool | int | float):  # as Flower's strategies send numbers
            values[name] = value
        else:
            raise _refused(kind, f"{printable(name, most=40)} is {type(value).__name__}, not text")
    if missing := kind.blobs.keys() - blobs.keys():
        raise _refused(kind, f"no {', '.join(sorted(missing))}")
    return values, blobs


def _metrics(kind: type[Message], content: RecordDict, values: Mapping[str, Any]) -> dict[str, Any]:
    from flwr.app import MetricRecord

    metrics = content.get(METRICS)
    if metrics is None:
        return {}
    if not isinstance(metrics, MetricRecord) or len(metrics) > MAX_KEYS:
        raise _refused(kind, "metrics that are no metric record")
    if METRICS in values:
        raise _refused(kind, "metrics in two places")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise _refused(kind, f"the metric {printable(name, most=40)} is no finite number")
    return {METRICS: dict(metrics)}


def depth_of(text: str) -> int:
    """The depth of lists and objects in JSON text, without parsing it.

    >>> depth_of('{"a": [1, "]["]}')
    2
    """
    deepest = depth = 0
    for token in _TOKEN.finditer(text):
        first = token.group()[0]
        depth += (first in "[{") - (first in "]}")
        deepest = max(deepest, depth)
    return deepest


def parse_json(text: str, *, what: str) -> Any:
    """JSON of somebody else's: of bounded depth, without infinite numbers, huge ones or keys that come twice."""

    def refuse(why: str) -> MessageError:
        return MessageError(f"JSON that is no {what}: {why}", expected="JSON of this version")

    def whole(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise refuse(f"a number of {len(digits)} digits")
        return int(digits)

    def fraction(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise refuse("an infinite number")
        return number

    def constant(name: str) -> float:
        raise refuse(f"the number {name}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise refuse("a key that comes twice")
        return found

    if depth_of(text) > MAX_DEPTH:
        raise refuse(f"more than {MAX_DEPTH} lists or objects within each other")
    try:
        return json.loads(text, object_pairs_hook=once, parse_int=whole, parse_float=fraction, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise refuse("it is no JSON") from error
