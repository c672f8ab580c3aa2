"""Small videos as phones, browsers and damaged disks leave them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Frames = Sequence[npt.NDArray[np.uint8]]
MATRICES = {
    "as stored": (1, 0, 0, 1),
    "quarter turn": (0, 1, -1, 0),
    "half turn": (-1, 0, 0, -1),
    "three quarters": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "mirrored and turned": (0, 1, 1, 0),
}


def corners(height: int = 64, width: int = 96) -> npt.NDArray[np.uint8]:
    """Red, green, blue and white, from the upper left corner with the clock."""
    frame = np.zeros((height, width, 3), np.uint8)
    rows, columns = height // 2, width // 2
    frame[:rows, :columns, 0] = 230
    frame[:rows, columns:, 1] = 230
    frame[rows:, columns:, 2] = 230
    frame[rows:, :columns] = 230
    return frame


def colours(frame: npt.NDArray[np.uint8]) -> str:
    """The colours of the four corners as letters, from the upper left with the clock."""
    height, width = frame.shape[:2]
    letters = ""
    for row, column in ((8, 8), (8, width - 8), (height - 8, width - 8), (height - 8, 8)):
        bright = frame[row, column].astype(int) > 120
        letters += {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w"}.get(tuple(map(int, bright)), "?")
    return letters


def encode(
    path: Path,
    frames: Frames,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    ratio: Fraction | None = None,
    times: Sequence[int] | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames [H, W, 3] at 12 a second, or at `times` in twelfths of a second."""
    with av.open(str(path), "w", format=container, options=options or {}) as target:
        stream: Any = target.add_stream(codec, rate=12)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 12)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an mp4, as a phone does for the way it was held."""
    content = bytearray(path.read_bytes())
    header = content.find(b"tkhd")
    place = header + 8 + (32 if content[header + 4] == 1 else 20) + 16
    a, b, c, d = (value * 65536 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
