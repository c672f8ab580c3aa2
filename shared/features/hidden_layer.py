"""The hidden layer of a learnt code, applied without the library that it was learnt with: a site needs two arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.study.public_arrays import Rule, Rules

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

LARGEST_WEIGHT = 1e6
_NAMES = ("hidden-weight", "hidden-bias")


@dataclass(frozen=True, slots=True, eq=False)
class HiddenLayer:
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
    def rules(cls, prefix: str, width: int = len(MEASUREMENTS)) -> Rules:
        """What each array may be, of units that look at `width` values."""
        shapes: tuple[tuple[int | str, ...], ...] = ((width, "units"), ("units",))
        return {prefix + name: Rule(shape, LARGEST_WEIGHT) for name, shape in zip(_NAMES, shapes, strict=True)}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Self:
        """From arrays that were checked."""
        return cls(*(arrays[prefix + name] for name in _NAMES))
