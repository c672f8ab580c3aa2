"""Types of arrays, by the type of their elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]
"""Of any width."""
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
