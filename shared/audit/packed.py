"""Arrays of one view laid end to end in one file, mapped into memory: workers share the pages, none is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Packed:
    """Arrays by row number, all of one dtype and of equal shape but for the first axis."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    """Shape of one entry along the first axis."""
    spans: dict[int, tuple[int, int]]
    """First and last (exclusive) entry of each row."""

    @classmethod
    def write(cls, folder: Path, name: str, arrays: Iterable[Array], rows: Callable[[], list[int]]) -> Packed:
        """Write arrays as they come. `rows` is asked afterwards for their row numbers: some may have been skipped."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = mkstemp(prefix=f"{name}-", suffix=".bin", dir=folder)
        dtype, shape, ends = np.dtype(np.float32), (), [0]
        with open(descriptor, "wb") as file:  # noqa: PTH123 - the descriptor that mkstemp opened
            for array in arrays:
                dtype, shape = array.dtype, array.shape[1:]
                file.write(np.ascontiguousarray(array).tobytes())
                ends.append(ends[-1] + len(array))
        spans = {row: (ends[i], ends[i + 1]) for i, row in enumerate(rows())}
        return cls(Path(path), dtype.str, tuple(shape), spans)

    def __getitem__(self, row: int) -> Array:
        first, last = self.spans[row]
        return self._mapped[first:last]

    def constant(self, row: int) -> Packed:
        """A view whose row 0 is this row."""
        return Packed(self.path, self.dtype, self.shape, {0: self.spans[row]})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}

    @cached_property
    def _mapped(self) -> Array:
        entries = max((last for _, last in self.spans.values()), default=0)
        if not entries:
            return np.zeros((0, *self.shape), self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(entries, *self.shape))
