"""Opens files of sound and pictures: failures name the file; pictures come upright, unmirrored, with square pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.array_types import UInt8
from moretta.shared.core.errors import ClipError

Frame = UInt8
"""[height, width, 3], RGB."""

MAX_SECONDS = 600.0
"""A clip is one sentence. The limit bounds memory, not taste."""
MAX_PIXEL_RATIO = 4.0
"""Width of a pixel over its height, or the inverse. Anamorphic video has up to 2; more is a damaged header."""
_GIT_LFS = b"version https://git-lfs"
_FIXED_POINT = 65536.0
_DECLARING_FORMATS = ("flv", "mov", "matroska", "avi")
"""Containers whose header says how long they are; of others the length is an estimate."""
_MISSING_SECONDS = 0.3
"""How much shorter than its header a video may be: the last frame of a phone lasts up to this."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every failure inside the block into a ClipError, `unreadable` or `empty`, that names the file."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_GIT_LFS))
    except OSError as error:
        raise ClipError("unreadable", f"{path.name} cannot be opened ({error.strerror})") from error
    if not head:
        raise ClipError("empty", f"{path.name} has no byte")
    if head == _GIT_LFS:
        raise ClipError("unreadable", f"{path.name} is a Git LFS pointer", fix="run `git lfs pull` in the corpus")
    try:
        yield
    except ClipError:
        raise
    except Exception as error:  # decoders raise what they like, and one file must not end a command
        detail = str(error) or type(error).__name__
        raise ClipError("unreadable", f"{path.name} cannot be decoded ({detail})") from error


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """A file of sound and pictures, open; failures inside the block are ClipErrors.

    Nothing but the file is opened, whatever its content refers to.
    """
    import av

    options = {"protocol_whitelist": "file"}
    with reading(path), av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
        yield container


def picture_stream(container: Any) -> Any | None:
    """The first track of moving pictures; a cover is none."""
    import av.stream

    cover = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def whole_packets(container: Any, path: Path) -> Iterator[Any]:
    """Every packet of a file, to its end; a missing one is a ClipError `truncated` or `damaged`."""
    end = 0.0
    declares = container.format.name.startswith(_DECLARING_FORMATS)
    for packet in container.demux():
        if packet.is_corrupt:
            reason = "truncated" if declares else "damaged"
            raise ClipError(reason, f"{path.name} has a part that is not whole", fix="copy it again")
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        yield packet
    if container.duration is None or not declares:
        return
    declared, there = container.duration / 1e6, end - (container.start_time or 0) / 1e6
    if declared - there > _MISSING_SECONDS:
        found = f"{path.name} holds {there:.1f} s, and its header says {declared:.1f} s"
        raise ClipError("truncated", found, fix="copy it again")


def decoded_frames(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Every frame of a track, as the decoder gives it; the whole file is read, so that a missing end shows. Raises
    ClipError: reason `truncated`, `damaged`, `too-long` or `size-changes`, possibly after some frames."""
    stream.codec_context.thread_count = 1
    first: Any = None
    for packet in whole_packets(container, path):
        for frame in packet.decode() if packet.stream_index == stream.index else ():
            if frame.is_corrupt:
                raise ClipError("damaged", f"{path.name} has a picture that is not whole", fix="copy it again")
            first = first or frame
            if frame.time is not None and frame.time - (first.time or 0) > MAX_SECONDS:
                raise ClipError("too-long", f"{path.name} has over {MAX_SECONDS:.0f} s", expected="one sentence")
            if (frame.width, frame.height) != (first.width, first.height):
                sizes = f"{first.width} x {first.height} to {frame.width} x {frame.height} pixels"
                found, fix = f"{path.name} changes from {sizes}", "convert it to one size"
                raise ClipError("size-changes", found, expected="one size", fix=fix)
            yield frame


def pixel_ratio(stream: Any, path: Path) -> float:
    """Width of a stored pixel over its height; a ClipError `unreadable` where no camera has such pixels."""
    found = stream.sample_aspect_ratio
    ratio = float(found) if found else 1.0
    if ratio <= 0:
        return 1.0
    if not 1 / MAX_PIXEL_RATIO <= ratio <= MAX_PIXEL_RATIO:
        raise ClipError("unreadable", f"{path.name} has pixels of {found}", expected="about as wide as high")
    return ratio


def as_seen(frame: Any, ratio: float) -> Frame:
    """A decoded frame as it is meant to be seen, with square pixels (see `pixel_ratio`).

    A display matrix turns and mirrors it: where its rows send a picture's axes, to the nearest quarter turn.
    """
    import cv2

    picture: Frame = frame.to_ndarray(format="rgb24")
    height, width = picture.shape[:2]
    if ratio != 1:
        size = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = (value / _FIXED_POINT for value in struct.unpack("=9i", bytes(matrix)[:36])[:5])
    right, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, right, down = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])
