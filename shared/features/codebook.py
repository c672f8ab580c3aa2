"""Codebooks: k-means centroids, the nearest of them, and a sample of frames to fit them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

_CHUNK_FRAMES = 8_192  # the product with 256 codewords then stays in the processor's cache


def fit_codebook(frames: npt.NDArray[Any], size: int, *, seed: int) -> Matrix:
    """Centroids of the frames by mini-batch k-means (Sculley, WWW 2010).

    Args:
        frames: [frames, n]
        size: number of centroids; with fewer frames than that, each frame gives one.
        seed: of the start and the batches.

    Returns:
        float32 [min(size, frames), n]
    """
    from sklearn.cluster import MiniBatchKMeans

    size = min(size, len(frames))
    means = MiniBatchKMeans(
        n_clusters=size, random_state=seed, n_init=2, batch_size=max(2_048, 4 * size), max_iter=50, compute_labels=False
    ).fit(np.ascontiguousarray(frames, np.float32))
    return np.ascontiguousarray(means.cluster_centers_, np.float32)


def nearest(frames: npt.NDArray[Any], codebook: Matrix) -> npt.NDArray[np.int32]:
    """Index of each frame's nearest codeword by Euclidean distance; of equally near ones the first.

    |x - c|² = |x|² - 2 (x·c - |c|²/2), so the nearest has the largest bracket: one matrix product.

    Args:
        frames: [frames, n]
        codebook: [k, n]

    Returns:
        int32 [frames]
    """
    frames = np.asarray(frames, np.float32)
    half_norms = 0.5 * np.square(codebook).sum(axis=1)  # [k]
    tokens = np.empty(len(frames), np.int32)
    for start in range(0, len(frames), _CHUNK_FRAMES):
        part = slice(start, start + _CHUNK_FRAMES)
        tokens[part] = (frames[part] @ codebook.T - half_norms).argmax(axis=1)
    return tokens


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
