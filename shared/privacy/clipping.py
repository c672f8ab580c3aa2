"""One site's update: how it changed the global weights, cut to a norm."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_MARGIN = 1e-12
"""Relative, off the norm: what adding up in double precision may have missed."""


def clipped_change(
    sent: Mapping[str, npt.NDArray[Any]],
    update: Mapping[str, npt.NDArray[Any]],
    *,
    trained: Collection[str],
    norm: float,
) -> dict[str, Floats]:
    """What an update changes, float64, with an L2 norm of all its arrays together of `norm` at most.

    An update with a value that is not finite changes nothing: scaled it would stay so, and noise would not hide it.
    To refuse it would tell as much.

    Args:
        sent: the global weights.
        update: what they have become at a site.
        trained: names of the arrays that training changes; what a site says of others is not looked at.
        norm: to cut to.
    """
    change = {name: update[name].astype(np.float64) - sent[name].astype(np.float64) for name in sorted(trained)}
    size = float(np.sqrt(sum(float(np.square(array).sum()) for array in change.values())))
    if not np.isfinite(size):
        return {name: np.zeros(array.shape) for name, array in change.items()}
    scale = 1.0 if size <= norm * (1 - _MARGIN) else norm * (1 - _MARGIN) / size
    return {name: array * scale for name, array in change.items()}


def changed(
    sent: Mapping[str, npt.NDArray[Any]], change: Mapping[str, npt.NDArray[np.floating[Any]]]
) -> dict[str, npt.NDArray[Any]]:
    """The global weights with a change, in the types that they had; what it does not name stays as it was."""
    return {
        name: (array.astype(np.float64) + change[name]).astype(array.dtype) if name in change else array
        for name, array in sent.items()
    }
