"""Small views of one clip, computed once for a whole audit, and the vectors of sets of clips that attackers use."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.arrays import ClipArray, Form
from moretta.shared.core.array_types import Array, Float32, UInt8

if TYPE_CHECKING:
    from moretta.shared.audit.dataset import ClipSet

THUMBNAILS, THUMBNAIL_SIDE = 6, 48
MOVEMENT_SIDE, MAX_MOVEMENT_FRAMES = 24, 300
_PERCENTILES = (5, 25, 50, 75, 95)
Vectors = Callable[["ClipSet"], Float32]
"""Makes one vector of each clip, float32 [clips, d]."""
Features = Callable[["ClipSet", int], Vectors]
"""Learns from the attacker's own clips, and a seed, what vectors need."""


def plain(vectors: Vectors) -> Features:
    """Vectors that need no training."""
    return lambda *_: vectors


def mfcc_view(array: ClipArray, coefficients: int | None = None) -> Float32:
    """float32 [frames, coefficients] of one voice clip, whatever its form; of codes, of faces too, float32 [steps, d].

    `coefficients` is for waveforms; None takes the default number.
    """
    from moretta.shared.features.voice_forms import as_sequence

    return as_sequence(array.form, array.read(), array.codebook, coefficients=coefficients)


def statistics_view(form: Form, sequence: Float32) -> Float32:
    """float32 [d] of one clip whose `mfcc_view` is at hand: of its MFCC, or of its codes."""
    from moretta.shared.features.voice_forms import is_code

    if form == "code":
        return np.array(sequence[0], np.float32)
    return code_statistics_of(sequence) if is_code(form) else statistics_of(sequence)


def thumbnails_of(frames: Array) -> UInt8:
    """uint8 [up to 6, 48, 48, 3]: frames spread evenly over the clip, made small."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, THUMBNAILS).round().astype(int))
    return np.stack([_resized(frames[i], THUMBNAIL_SIDE) for i in chosen])


def movement_of(frames: Array) -> UInt8:
    """uint8 [up to 300, 24, 24]: the first frames, all of them, in grey and tiny: what moves, and when."""
    import cv2

    small = (_resized(frame, MOVEMENT_SIDE) for frame in frames[:MAX_MOVEMENT_FRAMES])
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small])


def _resized(picture: Array, side: int) -> UInt8:
    import cv2

    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))


def statistics_of(mfcc: Float32) -> Float32:
    """float32 [d]: how the coefficients are distributed over a clip, over its louder frames, and how fast they move.

    Means and covariances over the louder frames carry the long-term spectrum of the voice; silence carries the room.
    Louder frames are those whose c0, the level, lies in the upper half of the clip's range.
    """
    low, high = np.percentile(mfcc[:, 0], (10, 95))
    loud = mfcc[mfcc[:, 0] > (low + high) / 2]
    loud = loud if len(loud) > 1 else mfcc
    upper = np.triu_indices(mfcc.shape[1])
    parts = [
        *_spread(mfcc),
        loud.mean(0),
        loud.std(0),
        np.percentile(loud, (10, 50, 90), axis=0).ravel(),
        np.cov(loud, rowvar=False)[upper] if len(loud) > 1 else np.zeros(len(upper[0])),
    ]
    return np.concatenate(parts).astype(np.float32)


def code_statistics_of(codes: Float32) -> Float32:
    """float32 [n]: how the codes of a sequence [steps, d] are distributed, how they follow, and how many there are.

    No value of a code is a level, so all steps count alike. With the products of every value with every value one
    step later a linear attacker sees what of a person is in how codes move together.
    """
    exact = np.asarray(codes, np.float64)
    mean = exact.mean(0)
    products = ((exact - mean).T @ (exact - mean) / len(exact))[np.triu_indices(codes.shape[1])]
    following = ((exact[:-1] - mean).T @ (exact[1:] - mean) / len(exact)).ravel()
    return np.concatenate([*_spread(exact), products, following, np.log([len(exact)])]).astype(np.float32)


def _spread(sequence: Array) -> list[Array]:
    """Mean, deviation, speed and percentiles over time of a sequence [steps, d]."""
    deltas = np.diff(sequence, axis=0) if len(sequence) > 1 else np.zeros_like(sequence)
    percentiles = np.percentile(sequence, _PERCENTILES, axis=0).ravel()
    return [sequence.mean(0), sequence.std(0), deltas.std(0), np.abs(deltas).mean(0), percentiles]


def voice_statistics(clips: ClipSet) -> Float32:
    """float32 [clips, d]: see `statistics_of`; of codes, those of faces too, `code_statistics_of`."""
    return np.stack([clips.statistics(i) for i in range(len(clips))])


def _of_pictures(see: Vectors) -> Vectors:
    """Vectors of pictures as before; of codes, which are no pictures, their statistics."""

    @wraps(see)
    def vectors(clips: ClipSet) -> Float32:
        return voice_statistics(clips) if clips.holds_codes else see(clips)

    return vectors


@_of_pictures
def face_pixels(clips: ClipSet) -> Float32:
    """float32 [clips, 24 * 24 * 3 + 24 * 24]: mean frame and how much each pixel moves, in [0, 1]."""
    rows = []
    for i in range(len(clips)):
        small = np.stack([_resized(frame, 24) for frame in clips.thumbnails(i)])
        frames = small.astype(np.float32) / 255  # [F, 24, 24, 3]
        rows.append(np.concatenate([frames.mean(0).ravel(), frames.mean(3).std(0).ravel()]))
    return np.stack(rows)


@_of_pictures
def face_gradients(clips: ClipSet) -> Float32:
    """float32 [clips, 900]: histograms of oriented gradients of the mean frame (Dalal and Triggs, CVPR 2005)."""
    return np.stack([_oriented_gradients(clips.thumbnails(i).mean(axis=(0, 3)) / 255) for i in range(len(clips))])


@_of_pictures
def face_picture(clips: ClipSet) -> Float32:
    """float32 [clips, 900 + 2304]: gradients, mean frame and movement."""
    return np.hstack([face_gradients(clips), face_pixels(clips)])


def _oriented_gradients(picture: npt.NDArray[np.floating], *, cell: int = 8, directions: int = 9) -> Float32:
    """Blocks of 2 x 2 cells, each normalized to length 1, of a picture [h, w]. OpenCV 5 no longer has them."""
    down, right = np.gradient(picture)
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    bins = np.minimum((angle / np.pi * directions).astype(int), directions - 1)
    rows, columns = picture.shape[0] // cell, picture.shape[1] // cell
    one_hot = strength[..., None] * (bins[..., None] == np.arange(directions))  # [h, w, directions]
    cells = one_hot[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, directions).sum((1, 3))
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    return np.asarray(blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1e-3), np.float32).ravel()


MOTION_COMPONENTS, FRAMES_PER_COMPONENT, MOTION_FRAMES = 12, 16, 6000


def motion(clips: ClipSet, seed: int) -> Vectors:
    """How a face, or its code, moves: statistics over time of principal components of frames, and of their speeds.

    Components are learned from at most 6000 frames; more of them than these can support fit their noise.
    """
    from sklearn.decomposition import PCA

    frames = np.concatenate([_flat_movement(clips, i) for i in range(len(clips))])
    chosen = np.random.default_rng(seed).permutation(len(frames))[:MOTION_FRAMES]
    components = min(MOTION_COMPONENTS, max(1, len(chosen) // FRAMES_PER_COMPONENT))
    reduce = PCA(components, svd_solver="full").fit(frames[np.sort(chosen)])

    def vectors(clips: ClipSet) -> Float32:
        rows = []
        for i in range(len(clips)):
            sequence = reduce.transform(_flat_movement(clips, i))
            speeds = np.diff(sequence, axis=0) if len(sequence) > 1 else np.zeros_like(sequence)
            rows.append(np.concatenate([code_statistics_of(sequence), code_statistics_of(speeds)]))
        return np.stack(rows)

    return vectors


def _flat_movement(clips: ClipSet, index: int) -> Float32:
    if clips.holds_codes:
        return clips.mfcc(index)
    frames = clips.movement(index)
    return np.asarray(frames.reshape(len(frames), -1), np.float32) / np.float32(255)
