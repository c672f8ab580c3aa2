"""The sound and the pictures of a clip: which file holds them, whether the two belong together; each decoded once.

Where a clip has no sound file, the sound track of its video is its sound.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from moretta.shared.core.array_types import Array, UInt8
from moretta.shared.core.errors import ClipError
from moretta.shared.data.clips import Clip
from moretta.shared.data.decoding import open_container, picture_stream, reading, whole_packets
from moretta.shared.data.media import SOUND_FILES, Audio, check_wav_is_whole, read_audio, read_frames

LONGER_SHARE, LONGER_SECONDS = 0.2, 0.5
"""How much longer than the other, and at least how much, sound or pictures may be. In CREMA-D as published they differ
by 0.04 s; its 1064_IEO_DIS_MD has 4 s of sound and 61 s of pictures, of several emotions."""
MOST_BYTES = 2 << 30
"""Most bytes of all clips that a `ClipStore` keeps; further clips are decoded again."""

Kind = Literal["sound", "pictures"]


def sound_file(clip: Clip) -> Path | None:
    """The file that holds the sound of a clip, if any does: its sound file, else its video."""
    if clip.audio is not None or clip.video is None:
        return clip.audio
    return clip.video if "sound" in _seconds_of(clip.video) else None


def has_sound(clip: Clip) -> bool:
    """Whether a clip has sound, be it in its video. Opens the video if there is no sound file."""
    return sound_file(clip) is not None


def read_sound(clip: Clip) -> Audio | None:
    """The sound of a clip; None if it has none. Errors: see `read_audio` and `check_length`."""
    path = sound_file(clip)
    if path is None:
        return None
    check_length(clip, "sound")
    return read_audio(path)


def read_pictures(clip: Clip, *, fps: float) -> UInt8 | None:
    """[frames, height, width, 3] of RGB; None if it has no video. Errors: see `read_frames` and `check_length`."""
    if clip.video is None:
        return None
    check_length(clip, "pictures")
    return np.stack(list(read_frames(clip.video, fps=fps)))


def picture_seconds(clip: Clip) -> float:
    """How long the pictures of a clip last."""
    return 0.0 if clip.video is None else _seconds_of(clip.video).get("pictures", 0.0)


def sound_seconds(clip: Clip) -> float:
    """How long the sound of a clip lasts."""
    path = clip.audio or clip.video
    return 0.0 if path is None else _seconds_of(path).get("sound", 0.0)


def check_length(clip: Clip, kind: Kind) -> None:
    """Check that sound and pictures last about as long as each other; else a ClipError `other-length`.

    A much longer file holds something else than the clip and is not used; nor are pictures that hardly move.
    """
    if clip.video is None:
        return
    audio = clip.audio or clip.video
    pictures, sound = _seconds_of(clip.video).get("pictures"), _seconds_of(audio).get("sound")
    if pictures is None or sound is None:
        return
    at_fault = "sound" if LONGER_SECONDS < pictures < sound else "pictures"
    if kind == at_fault and abs(sound - pictures) > max(LONGER_SECONDS, LONGER_SHARE * min(sound, pictures)):
        path = clip.video if kind == "pictures" else audio
        found = f"{path.name}: the clip has {sound:.1f} s of sound and {pictures:.1f} s of pictures"
        raise ClipError("other-length", found, expected="one sentence in both", fix="cut it, or take it out")


def _seconds_of(path: Path) -> dict[Kind, float]:
    """How long the sound and the pictures of a file last, as far as it can be read."""
    try:
        found = path.stat()
        return _measured(path, found.st_mtime_ns, found.st_size)
    except (ClipError, OSError):  # an error when the file itself is read
        return {}


@lru_cache(maxsize=8192)  # each file is needed for both modalities, and in every round
def _measured(path: Path, changed: int, size: int) -> dict[Kind, float]:
    import soundfile

    del changed, size
    if path.suffix.lower() in SOUND_FILES:
        with reading(path):
            check_wav_is_whole(path)
            return {"sound": float(soundfile.info(path).duration)}
    spans: dict[Kind, list[tuple[float, float]]] = {}
    with open_container(path) as container:
        sounds = container.streams.audio
        streams: dict[Kind, Any] = {"sound": sounds[0] if sounds else None, "pictures": picture_stream(container)}
        kinds = {stream.index: kind for kind, stream in streams.items() if stream is not None}
        for packet in whole_packets(container, path):
            kind = kinds.get(packet.stream_index)
            if kind is not None and packet.pts is not None:
                start = float(packet.pts * packet.time_base)
                spans.setdefault(kind, []).append((start, float((packet.duration or 0) * packet.time_base)))
    return {kind: _spanned(sorted(each)) for kind, each in spans.items()}


def _spanned(packets: list[tuple[float, float]]) -> float:
    """Seconds from the first start to the last end. A last packet without a duration counts as long as the others."""
    (first, _), (last, duration) = packets[0], packets[-1]
    return last - first + (duration or (last - first) / max(1, len(packets) - 1))


class ClipStore:
    """A site's clips while a release is made: decoded once, kept in a file without a name that is gone with the store.

    Args:
        decode: reads one clip; None if it has not this modality. Its error is raised again for the same clip.
        folder: on the disk of the file: the site's own, since this is what nobody else may read.
        most_bytes: the size of the file.

    `keeping` is true as long as what is decoded will be read again.
    """

    def __init__(self, decode: Callable[[Clip], Array | None], folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._decode, self._folder, self._most = decode, folder, most_bytes
        self.keeping = True
        self._known: dict[str, int | Exception | None] = {}
        """Places in the file."""
        self._file: IO[bytes] | None = None
        self._size = 0

    def __call__(self, clip: Clip) -> Array | None:
        """The clip as it was decoded."""
        if clip.name in self._known:
            found = self._known[clip.name]
            if isinstance(found, Exception):
                raise found
            if found is None or self._file is None:
                return None
            self._file.seek(found)
            return np.asarray(np.load(self._file))
        try:
            array = self._decode(clip)
        except Exception as error:
            self._known[clip.name] = error
            raise
        if array is None:
            self._known[clip.name] = None
        elif self.keeping and self._size + array.nbytes <= self._most:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the store
            self._known[clip.name] = self._file.seek(0, os.SEEK_END)
            np.save(self._file, np.ascontiguousarray(array))
            self._size += array.nbytes
        return array
