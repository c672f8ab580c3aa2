"""A uniform sample of a stream of frames, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class FrameSample:
    """Keeps `size` frames of a stream, each set of that size as likely as any other.

    Every frame draws a key; the smallest keys stay (Efraimidis and Spirakis 2006, algorithm A-Res with equal weights).
    Which frames stay depends on the seed and their position, never on their content.

    >>> sample = FrameSample(2, 1, seed=1)
    >>> for _ in range(3):
    ...     sample.add(np.ones((5, 1), np.float32))
    >>> sample.frames().shape
    (2, 1)
    """

    def __init__(self, size: int, width: int, *, seed: int) -> None:
        self._size = size
        self._generator = np.random.default_rng([seed, 0x5A3])
        self._parts: list[npt.NDArray[np.float32]] = [np.empty((0, width), np.float32)]
        self._keys: list[npt.NDArray[np.float64]] = [np.empty(0)]
        self._held = 0

    def add(self, frames: npt.NDArray[np.float32]) -> None:
        """Offer frames, [frames, width]."""
        self._parts.append(frames)
        self._keys.append(self._generator.random(len(frames)))
        self._held += len(frames)
        if self._held > 2 * self._size:
            self._shrink()

    def frames(self) -> npt.NDArray[np.float32]:
        """The sample so far, [at most size, width], in order of arrival."""
        self._shrink()
        return self._parts[0]

    def _shrink(self) -> None:
        frames, keys = np.concatenate(self._parts), np.concatenate(self._keys)
        if len(keys) > self._size:
            kept = np.sort(np.argpartition(keys, self._size)[: self._size])
            frames, keys = frames[kept], keys[kept]
        self._parts, self._keys, self._held = [frames], [keys], len(keys)
