"""Media of one clip for the steward's review: sound, spectrogram, pictures, and the values of a code."""

from __future__ import annotations

import base64
import io
from contextlib import suppress

import numpy as np

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.data.clips import Clip
from moretta.shared.data.media import SAMPLE_RATE
from moretta.shared.data.recordings import read_pictures, read_sound

_PICTURES = 4
_HEIGHT = 128
"""Height of pictures and spectrograms, in pixels."""
_CODE_SIZE = (24, 240)
"""Smallest height and width of a code's picture, in pixels."""
_WINDOW, _HOP = 400, 160
"""Samples of a window and of a step: 25 and 10 ms."""
_FLOOR_DECIBELS = 70.0
"""Decibels below the loudest value from which on all is black."""


def original_sound(clip: Clip) -> Array | None:
    """float32 [samples] at 16 kHz; None if there is none that can be read."""
    with suppress(ClipError):
        return read_sound(clip)
    return None


def original_pictures(clip: Clip, *, fps: float) -> Array | None:
    """uint8 [frames, height, width, 3]; None if there are none that can be read."""
    with suppress(ClipError, ReleaseError):
        return read_pictures(clip, fps=fps)
    return None


def wav(samples: Array) -> bytes:
    """A WAV file of samples at 16 kHz."""
    import soundfile

    target = io.BytesIO()
    soundfile.write(target, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return target.getvalue()


def pictures(frames: Array | None) -> list[Array]:
    """Some of the frames [frames, height, width, 3], evenly spaced and equally high; none of none."""
    import cv2

    if frames is None or not len(frames):
        return []
    places = np.linspace(0, len(frames) - 1, min(_PICTURES, len(frames))).round().astype(int)
    height, width = frames.shape[1:3]
    size = (max(1, round(width * _HEIGHT / height)), _HEIGHT)
    how = cv2.INTER_AREA if height > _HEIGHT else cv2.INTER_NEAREST
    return [np.asarray(cv2.resize(frames[place], size, interpolation=how)) for place in places]


def spectrogram(samples: Array) -> Array:
    """uint8 [128, time, 3]: loudness by frequency, 0 Hz to 8 kHz from below, in steps of 10 ms."""
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), n=2 * _HEIGHT, axis=1))[:, :_HEIGHT]
    decibels = 20 * np.log10(power + 1e-9)
    return _coloured((decibels.T[::-1] - decibels.max()) / _FLOOR_DECIBELS + 1)


def values(code: Array) -> Array:
    """uint8 [height, width, 3]: a released code, values from above and steps from the left, in blocks that show."""
    columns = np.atleast_2d(np.asarray(code, np.float64))  # [steps, values]
    low, high = columns.min(), columns.max()
    scaled = ((columns - low) / max(high - low, 1e-9)).T
    if len(columns) == 1:  # one code: values from the left
        scaled = scaled.T
    down, right = (max(1, size // side) for size, side in zip(_CODE_SIZE, scaled.shape, strict=True))
    return _coloured(np.kron(scaled, np.ones((down, right))))


def png(picture: Array) -> bytes:
    """A PNG file of RGB values, uint8 [height, width, 3]."""
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]))[1].tobytes())  # cv2 has blue first


def data_address(kind: str, content: bytes) -> str:
    """A file of the media type `kind` as an address, for pages that load nothing.

    >>> data_address("text/plain", b"a")
    'data:text/plain;base64,YQ=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _coloured(shares: Array) -> Array:
    """uint8 [h, w, 3] of values [h, w], of which 0 is dark and 1 bright."""
    import cv2

    grey = (np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[:, :, ::-1])
