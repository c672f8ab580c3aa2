"""What is done to sound before any speaker encoder hears it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError
from moretta.shared.data.media import SAMPLE_RATE

Audio = npt.NDArray[np.float32]

_BLOCK = SAMPLE_RATE // 40  # 25 ms
_SILENCE_DB = 35.0
_MIN_SECONDS = 0.5


def speech_only(samples: Audio) -> Audio:
    """Cut silence at both ends, and make what is left at least half a second long.

    Silence tells encoders about the room, not the speaker. A block of 25 ms is silent if it is 35 dB below the loudest.

    Args:
        samples: [samples] at 16 kHz.

    Returns:
        float32 [samples], contiguous.

    Raises:
        ClipError: reason `not-finite`, or `empty`.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    if samples.ndim != 1 or not len(samples):
        raise ClipError("empty", f"a waveform of shape {list(samples.shape)}", expected="[samples]")
    if not np.isfinite(samples).all():
        raise ClipError("not-finite", "a waveform with samples that are not numbers")
    blocks = len(samples) // _BLOCK
    if blocks >= 3:
        power = np.square(samples[: blocks * _BLOCK].reshape(blocks, _BLOCK), dtype=np.float64).mean(axis=1)
        loud = np.flatnonzero(power >= power.max() * 10 ** (-_SILENCE_DB / 10))
        samples = samples[loud[0] * _BLOCK : (loud[-1] + 1) * _BLOCK]
    return lengthened(samples, int(_MIN_SECONDS * SAMPLE_RATE))


def lengthened(samples: Audio, least: int) -> Audio:
    """Repeat a short clip until it is `least` samples long: encoders hear zeros as a room, not as nothing."""
    if len(samples) >= least:
        return samples
    return np.tile(samples, -(-least // len(samples)))[:least]


def unit_length(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Scale rows [n, d] to length 1. A row of zeros stays: it is as far from every other."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
