"""Types of arrays, by the type of their elements; and rows of length 1, which embeddings are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]
"""Integers of any width."""
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]


def unit_rows(vectors: Array) -> Array:
    """Rows [n, d] scaled to length 1, of their own dtype; a row of zeros stays: it is as far from every other."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
