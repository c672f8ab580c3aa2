"""Clips as vectors, one row each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.clipset import ClipSet

Floats = npt.NDArray[np.float32]


def voice_statistics(clips: ClipSet) -> Floats:
    """float32 [clips, d]: see `moretta.shared.audit.views.statistics_of`."""
    return np.stack([clips.statistics(i) for i in range(len(clips))])


def face_pixels(clips: ClipSet) -> Floats:
    """float32 [clips, 24 * 24 * 3 + 24 * 24]: mean frame and how much each pixel moves, in [0, 1]."""
    import cv2

    rows = []
    for i in range(len(clips)):
        small = np.stack([cv2.resize(f, (24, 24), interpolation=cv2.INTER_AREA) for f in clips.thumbnails(i)])
        frames = small.astype(np.float32) / 255  # [F, 24, 24, 3]
        rows.append(np.concatenate([frames.mean(0).ravel(), frames.mean(3).std(0).ravel()]))
    return np.stack(rows)


def face_gradients(clips: ClipSet) -> Floats:
    """float32 [clips, 900]: histograms of oriented gradients of the mean frame (Dalal and Triggs, CVPR 2005)."""
    return np.stack([_oriented_gradients(clips.thumbnails(i).mean(axis=(0, 3)) / 255) for i in range(len(clips))])


def _oriented_gradients(picture: npt.NDArray[np.floating], *, cell: int = 8, directions: int = 9) -> Floats:
    """Blocks of 2 x 2 cells, each normalized to length 1, of a picture [h, w]. OpenCV 5 no longer has them."""
    down, right = np.gradient(picture)
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    bins = np.minimum((angle / np.pi * directions).astype(int), directions - 1)
    rows, columns = picture.shape[0] // cell, picture.shape[1] // cell
    one_hot = strength[..., None] * (bins[..., None] == np.arange(directions))  # [h, w, directions]
    cells = one_hot[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, directions).sum((1, 3))
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    normalized: Floats = (blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1e-3)).astype(np.float32)
    return normalized.ravel()
