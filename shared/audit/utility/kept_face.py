"""How much of a face its release keeps: the place of its landmarks, their movement, and what the picture looks like."""

from __future__ import annotations

import cv2
import numpy as np

from moretta.shared.core.array_types import Float32, Float64, UInt8
from moretta.shared.features.landmarks import eye_distance

_WINDOW, _SIGMA = 11, 1.5
"""Pixels of the Gaussian window of SSIM (Wang et al., section III-C)."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_FEWEST = 3
"""Frames that movement is compared on, at least."""
_STILL = 1e-4
"""Eye distances; less is rounding."""


def laid_onto(points: Float32, other: Float32) -> Float64:
    """Points [n, 2], turned, scaled and shifted onto others so that they lie as near as they can."""
    from moretta.shared.features.face_track import similarity  # brings torch, which the names of a study do not need

    matrix = similarity(points, other)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def landmark_error(original: Float32, released: Float32) -> float:
    """Mean distance of two sets of points [468, 2], as a share of the eye distance of the first.

    The second is laid onto the first before: where in the picture a face is, and how large, is no error.
    """
    apart = np.linalg.norm(laid_onto(released, original) - original, axis=1)
    return float(apart.mean() / max(eye_distance(original), 1e-6))


def kept_movement(original: Float32, released: Float32) -> float:
    """Correlation of how both faces change shape over the same frames, [frames, 468, 2] each.

    Each clip's own mean shape is taken off, so another person who makes the same face has the full figure. 0 for a
    release that stands still; NaN for fewer than three frames, and where the original does not move.
    """
    if len(original) < _FEWEST:
        return float("nan")
    one, two = (_changes(points) for points in (original, released))
    moves, moved = (float(np.sqrt(np.mean(change**2))) for change in (one, two))
    if moves < _STILL:
        return float("nan")
    return float(np.mean(one * two) / (moves * moved)) if moved > _STILL else 0.0


def _changes(points: Float32) -> Float64:
    """Differences from the clip's mean shape, in eye distances."""
    fixed = np.stack([laid_onto(shape, points[0]) for shape in points])
    mean = fixed.mean(axis=0)
    return np.asarray((fixed - mean) / max(eye_distance(mean.astype(np.float32)), 1e-6))


def structural_similarity(original: UInt8, released: UInt8) -> float:
    """SSIM of two pictures [height, width, 3] of RGB; 1 is the same. A release of another size is scaled to it.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
    Transactions on Image Processing 13(4), 2004, equation 13; of the brightness.
    """
    height, width = original.shape[:2]
    if released.shape != original.shape:
        released = np.asarray(cv2.resize(released, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    x, y = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (original, released))
    mx, my = _local(x), _local(y)
    vx, vy, both = _local(x * x) - mx**2, _local(y * y) - my**2, _local(x * y) - mx * my
    similar = (2 * mx * my + _C1) * (2 * both + _C2) / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))
    edge = _WINDOW // 2
    return float(similar[edge:-edge, edge:-edge].mean())


def _local(values: Float64) -> Float64:
    return np.asarray(cv2.GaussianBlur(values, (_WINDOW, _WINDOW), _SIGMA))


def same_moments(original: UInt8, released: UInt8, most: int) -> tuple[UInt8, UInt8]:
    """Up to `most` frames of each clip, evenly spread, by the same share of its length."""
    share = (np.arange(min(most, len(original), len(released))) + 0.5) / max(1, min(most, len(original), len(released)))
    return original[(share * len(original)).astype(int)], released[(share * len(released)).astype(int)]
