"""Values on their way to noise, in float64: bounded whatever they are.

A cut passes NaN on, and so does noise: what is not a number would be told exactly. To leave the clip out would tell as
much. So it takes the place of a fixed point that everybody knows, 0, and goes on like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def bounded(values: npt.NDArray[Any], limit: float) -> Floats:
    """Values cut to +- `limit`; 0 where there is no number."""
    exact = np.asarray(values, np.float64)
    return np.clip(np.where(np.isnan(exact), 0.0, exact), -limit, limit)


def in_ball(values: npt.NDArray[Any], radius: float) -> Floats:
    """A vector cut to an L2 norm of `radius`; zeros where it has no norm, as of a value that is not finite."""
    exact = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(exact))
    if not np.isfinite(length):
        return np.zeros(exact.shape)
    return exact if length <= radius else exact * (radius / length)
