"""Is an update fit to be aggregated? Size, shape, type, finiteness and norm are checked before anything is added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moretta.shared.messages import wire

if TYPE_CHECKING:
    from flwr.app import RecordDict

Array = npt.NDArray[Any]
MAX_NORM = 1e6
"""L2 norm of an update beyond which it is taken for damage or an attack."""
_HEADER_BYTES = 4096
"""What the packing of one array may add to its values."""


def packed_problem(expected: dict[str, Array], content: RecordDict) -> str | None:
    """What is wrong with an update as it came, before a byte of it is unpacked; None if nothing is.

    Args:
        expected: the global weights the update started from.
        content: a site's answer.
    """
    from flwr.app import ArrayRecord

    record = content.get(wire.ARRAYS)
    if not isinstance(record, ArrayRecord):
        return "an update without arrays"
    if odd := _odd(record.keys(), expected.keys()):
        return odd
    for name, packed in record.items():
        limit = expected[name].nbytes + _HEADER_BYTES
        if len(packed.data) > limit:
            return f"{name} of {len(packed.data)} bytes, at most {limit} were expected"
    return None


def update_problem(expected: dict[str, Array], update: dict[str, Array], *, max_norm: float = MAX_NORM) -> str | None:
    """What is wrong with an update, None if nothing is.

    Args:
        expected: the global weights the update started from.
        update: the weights a site sent.
        max_norm: L2 norm that the change may have at most.
    """
    if odd := _odd(update.keys(), expected.keys()):
        return odd
    for name, reference in expected.items():
        array = update[name]
        if array.shape != reference.shape or array.dtype != reference.dtype:
            return f"{name} is {array.dtype} {list(array.shape)}, not {reference.dtype} {list(reference.shape)}"
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return f"{name} has values that are not finite"
    norm = np.sqrt(sum(float(np.square(update[n].astype(np.float64) - expected[n]).sum()) for n in expected))
    return f"an update of norm {norm:.3g}, above {max_norm:.3g}" if norm > max_norm else None


def _odd(names: Iterable[str], expected: Iterable[str]) -> str | None:
    odd = sorted(set(names) ^ set(expected))
    return f"tensors that are missing or too many: {', '.join(odd)[:200]}" if odd else None
