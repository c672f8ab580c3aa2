"""The hidden layer of a learnt code, applied without the library that it was learnt with: a site needs two arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.errors import StudyError

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MAX_UNITS = 1024
_NAMES = ("hidden-weight", "hidden-bias")


@dataclass(frozen=True, slots=True, eq=False)
class HiddenUnits:
    """Rectified linear units (Nair and Hinton, ICML 2010)."""

    weight: Matrix
    """[n, h]"""
    bias: npt.NDArray[np.float32]
    """[h]"""

    def __call__(self, values: npt.NDArray[Any]) -> Floats:
        """[m, n] -> [m, h], none below 0."""
        return np.maximum(np.asarray(values, np.float64) @ self.weight + self.bias, 0.0)

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        return {prefix + name: array for name, array in zip(_NAMES, (self.weight, self.bias), strict=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, *, width: int) -> Self | None:
        """What `to_arrays` made, for `width` values; None where nothing of the kind was sent.

        Raises:
            StudyError: one array without the other, or of another shape, or with values that cannot be.
        """
        sent = [arrays.get(prefix + name) for name in _NAMES]
        if all(array is None for array in sent):
            return None
        weight, bias = (np.ascontiguousarray([] if array is None else array, np.float32) for array in sent)
        fits = bias.ndim == 1 and 1 <= len(bias) <= MAX_UNITS and weight.shape == (width, len(bias))
        if not fits or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise StudyError(
                f"hidden units of weight {list(weight.shape)}, bias {list(bias.shape)}",
                expected=f"finite arrays [{width}, h] and [h], h up to {MAX_UNITS}",
            )
        return cls(weight, bias)
