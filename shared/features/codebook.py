"""Codebooks: k-means centroids, and the nearest of them."""

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
