"""Arrays that the coordinator makes in public and every site takes, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.errors import StudyError


def taken(arrays: Mapping[str, npt.NDArray[Any]], *names: str) -> list[npt.NDArray[np.float32]]:
    """Some of them, in this order, as float32. Their shapes and values are for the caller to check.

    Raises:
        StudyError: some are missing.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        raise StudyError(
            f"public voice arrays without {', '.join(missing)}",
            expected="what the coordinator's codebook stage makes for this study",
            fix="run that stage first",
        )
    return [np.ascontiguousarray(arrays[name], np.float32) for name in names]


def are_finite(*arrays: npt.NDArray[Any]) -> bool:
    """Whether all values of all of them are."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
