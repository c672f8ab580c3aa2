"""Clips as vectors, one row each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.server.audit.clipset import ClipSet

Floats = npt.NDArray[np.float32]


def voice_statistics(clips: ClipSet) -> Floats:
    """float32 [clips, d]: see `moretta.server.audit.views.statistics_of`."""
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
    import cv2

    hog = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9)
    rows = []
    for i in range(len(clips)):
        mean = clips.thumbnails(i).mean(0).round().astype(np.uint8)
        rows.append(hog.compute(cv2.cvtColor(mean, cv2.COLOR_RGB2GRAY)).ravel())
    return np.stack(rows).astype(np.float32)
