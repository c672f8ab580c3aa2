"""Pitch, frame by frame: the lag at which a frame is most like itself.

Autocorrelation divided by that of the window (Boersma, IFA Proceedings 17, 1993, section 3), frames on the grid of
`moretta.shared.features.mfcc`. No path is sought through the frames: octave errors are few, and statistics over a clip
that leave out what lies an octave from the median bear them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.features.mfcc import HOP_SAMPLES, SAMPLE_RATE

LOWEST_HERTZ = 60
HIGHEST_HERTZ = 500
_WINDOW_SAMPLES = 640  # 40 ms: more than two periods of all but the very lowest voices
_FFT_SAMPLES = 2048
_OCTAVE_COST = 0.02  # of clarity, for each octave down from the highest pitch: of equal peaks the first one counts
_SILENCE = 1e-10

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PitchTrack:
    """One value each 10 ms; arrays of [1 + samples // 160]."""

    hertz: Floats
    """Where a frame is not voiced it means nothing."""
    clarity: Floats
    """How much like itself a frame is one period later: near 1 for a clear voice, near 0 for noise."""
    level: Floats
    """Natural logarithm of the mean power of the frame."""


def pitch_track(samples: npt.NDArray[Any]) -> PitchTrack:
    """Pitch of one clip.

    Args:
        samples: [samples], mono at 16 kHz in [-1, 1].
    """
    window, own = _window()
    frames = _frames(samples) * window  # [frames, window]
    power = np.abs(np.fft.rfft(frames, _FFT_SAMPLES)) ** 2
    correlation = np.fft.irfft(power, _FFT_SAMPLES)[:, : len(own)]  # [frames, lags]
    energy = correlation[:, 0]
    likeness = correlation / (energy[:, None] + _SILENCE) / own
    first, last = SAMPLE_RATE // HIGHEST_HERTZ, SAMPLE_RATE // LOWEST_HERTZ
    lags = np.arange(first, last + 1)
    candidates = likeness[:, first : last + 1] - _OCTAVE_COST * np.log2(lags / first).astype(np.float32)
    best = candidates.argmax(axis=1)
    rows = np.arange(len(best))
    lag = lags[best] + _between(likeness, rows, lags[best])
    level = np.log(energy / _WINDOW_SAMPLES + _SILENCE)
    return PitchTrack(
        (SAMPLE_RATE / lag).astype(np.float32), candidates[rows, best].astype(np.float32), level.astype(np.float32)
    )


def _frames(samples: npt.NDArray[Any]) -> Floats:
    count = 1 + len(samples) // HOP_SAMPLES
    half = _WINDOW_SAMPLES // 2
    padded = np.pad(np.asarray(samples, np.float32), (half, half + HOP_SAMPLES))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES][:count]
    return np.asarray(frames - frames.mean(axis=1, keepdims=True), np.float32)


def _between(
    likeness: npt.NDArray[Any], rows: npt.NDArray[np.int64], lag: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Where the parabola through a peak and its neighbours is highest, at most half a sample away."""
    before, peak, after = (likeness[rows, lag + step].astype(np.float64) for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    return np.asarray(np.clip(np.where(bend < 0, (before - after) / (2 * np.minimum(bend, -1e-9)), 0.0), -0.5, 0.5))


@lru_cache(maxsize=1)
def _window() -> tuple[Floats, Floats]:
    """The window, and its own autocorrelation at every lag that is looked at, 1 at lag 0."""
    window = np.hanning(_WINDOW_SAMPLES).astype(np.float32)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT_SAMPLES)) ** 2, _FFT_SAMPLES)
    own = own[: SAMPLE_RATE // LOWEST_HERTZ + 2] / own[0]
    return window, own.astype(np.float32)
