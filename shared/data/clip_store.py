"""A site's clips while a release is made of them: each is decoded once, though it is read to fit and to be released."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from moretta.shared.data.clips import Clip

Array = npt.NDArray[Any]
MOST_BYTES = 2 << 30
"""Of all clips that are kept; those beyond are decoded again."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in the file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ClipStore:
    """Decodes clips, and keeps what was decoded in a file without a name, which is gone with the store.

    Args:
        decode: reads one clip; None if it has not this modality. What it raises is raised again for the same clip.
        folder: on the disk of the file: the site's own, since this is what nobody else may read.
        most_bytes: the size of the file.

    `keeping` is true as long as what is decoded will be read again.
    """

    def __init__(self, decode: Callable[[Clip], Array | None], folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._decode, self._folder, self._most = decode, folder, most_bytes
        self.keeping = True
        self._known: dict[str, _Place | Exception | None] = {}
        self._file: IO[bytes] | None = None
        self._size = 0

    def __call__(self, clip: Clip) -> Array | None:
        """The clip as it was decoded."""
        if clip.name in self._known:
            found = self._known[clip.name]
            if isinstance(found, Exception):
                raise found
            return None if found is None else self._load(found)
        try:
            array = self._decode(clip)
        except Exception as error:
            self._known[clip.name] = error
            raise
        if array is None:
            self._known[clip.name] = None
        elif self.keeping and self._size + array.nbytes <= self._most:
            self._known[clip.name] = self._keep(np.ascontiguousarray(array))
        return array

    def _keep(self, array: Array) -> _Place:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the store
        place = _Place(self._size, array.dtype, array.shape)
        self._file.seek(place.offset)
        self._file.write(array.data)
        self._size += array.nbytes
        return place

    def _load(self, place: _Place) -> Array:
        assert self._file is not None
        self._file.seek(place.offset)
        count = int(np.prod(place.shape))
        return np.frombuffer(self._file.read(count * place.dtype.itemsize), place.dtype).reshape(place.shape).copy()
