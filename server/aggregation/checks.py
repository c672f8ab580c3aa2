"""Is an update fit to be aggregated? Shape, type, finiteness and size are checked before anything is added up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MAX_NORM = 1e6
"""L2 norm of an update beyond which it is taken for damage or an attack."""


def update_problem(expected: dict[str, Array], update: dict[str, Array]) -> str | None:
    """What is wrong with an update, None if nothing is.

    Args:
        expected: the global weights the update started from.
        update: the weights a site sent.
    """
    if update.keys() != expected.keys():
        odd = sorted(update.keys() ^ expected.keys())
        return f"tensors that are missing or too many: {', '.join(odd)[:200]}"
    for name, reference in expected.items():
        array = update[name]
        if array.shape != reference.shape or array.dtype != reference.dtype:
            return f"{name} is {array.dtype} {list(array.shape)}, not {reference.dtype} {list(reference.shape)}"
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return f"{name} has values that are not finite"
    norm = np.sqrt(sum(float(np.square(update[n].astype(np.float64) - expected[n]).sum()) for n in expected))
    return f"an update of norm {norm:.3g}, above {MAX_NORM:.0g}" if norm > MAX_NORM else None
