"""Small views of one clip that many attackers share: computed once for a whole audit, then mapped from disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.sources import ArraySource

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]

THUMBNAILS = 6
THUMBNAIL_SIDE = 48
MOVEMENT_SIDE = 24
MAX_MOVEMENT_FRAMES = 300
_PERCENTILES = (5, 25, 50, 75, 95)


def mfcc_view(source: ArraySource, row: int, coefficients: int | None = None) -> Floats:
    """float32 [frames, coefficients] of one voice clip, whatever its form; of codes float32 [steps, d].

    `coefficients` is for waveforms; None takes the default number.
    """
    from moretta.shared.features.voice_forms import as_sequence

    return as_sequence(source.form(row), source.array(row), source.codebook(row), coefficients=coefficients)


def statistics_view(source: ArraySource, row: int, sequence: Floats) -> Floats:
    """float32 [d] of one voice clip whose `mfcc_view` is at hand: of its MFCC, or of its codes."""
    from moretta.shared.features.voice_forms import is_code

    form = source.form(row)
    if form == "code":
        return np.array(sequence[0], np.float32)
    return code_statistics_of(sequence) if is_code(form) else statistics_of(sequence)


def thumbnails_view(source: ArraySource, row: int) -> Frames:
    """See `thumbnails_of`."""
    return thumbnails_of(source.array(row))


def thumbnails_of(frames: npt.NDArray[Any]) -> Frames:
    """uint8 [up to 6, 48, 48, 3]: frames spread evenly over the clip, made small."""
    import cv2

    chosen = np.unique(np.linspace(0, len(frames) - 1, THUMBNAILS).round().astype(int))
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.stack([cv2.resize(frames[i], side, interpolation=cv2.INTER_AREA) for i in chosen])


def movement_of(frames: npt.NDArray[Any]) -> Frames:
    """uint8 [up to 300, 24, 24]: the first frames, all of them, in grey and tiny: what moves, and when."""
    import cv2

    side = (MOVEMENT_SIDE, MOVEMENT_SIDE)
    small = (cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in frames[:MAX_MOVEMENT_FRAMES])
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small])


def statistics_of(mfcc: Floats) -> Floats:
    """float32 [d]: how the coefficients are distributed over a clip, over its louder frames, and how fast they move.

    Means and covariances over the louder frames carry the long-term spectrum of the voice; silence carries the room.
    """
    loud = _louder_frames(mfcc)
    deltas = np.diff(mfcc, axis=0) if len(mfcc) > 1 else np.zeros_like(mfcc)
    upper = np.triu_indices(mfcc.shape[1])
    parts = [
        mfcc.mean(0),
        mfcc.std(0),
        deltas.std(0),
        np.abs(deltas).mean(0),
        np.percentile(mfcc, _PERCENTILES, axis=0).ravel(),
        loud.mean(0),
        loud.std(0),
        np.percentile(loud, (10, 50, 90), axis=0).ravel(),
        np.cov(loud, rowvar=False)[upper] if len(loud) > 1 else np.zeros(len(upper[0])),
    ]
    return np.concatenate(parts).astype(np.float32)


def code_statistics_of(codes: Floats) -> Floats:
    """float32 [n]: how the codes of a sequence [steps, d] are distributed, how they follow, and how many there are.

    No value of a code is a level, so all steps count alike. With the products of every value with every value one
    step later a linear attacker sees what of a person is in how codes move together.
    """
    exact = np.asarray(codes, np.float64)
    deltas = np.diff(exact, axis=0) if len(exact) > 1 else np.zeros_like(exact)
    mean = exact.mean(0)
    upper = np.triu_indices(codes.shape[1])
    parts = [
        mean,
        exact.std(0),
        deltas.std(0),
        np.abs(deltas).mean(0),
        np.percentile(exact, _PERCENTILES, axis=0).ravel(),
        ((exact - mean).T @ (exact - mean) / len(exact))[upper],
        ((exact[:-1] - mean).T @ (exact[1:] - mean) / len(exact)).ravel(),
        np.log([len(exact)]),
    ]
    return np.concatenate(parts).astype(np.float32)


def _louder_frames(mfcc: Floats) -> Floats:
    """Frames whose c0, the level, lies in the upper half of the clip's range."""
    low, high = np.percentile(mfcc[:, 0], (10, 95))
    loud = mfcc[mfcc[:, 0] > (low + high) / 2]
    return loud if len(loud) > 1 else mfcc
