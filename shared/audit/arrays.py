"""Arrays of clips, read on demand: from memory, releases or a corpus. Each can be sent to a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import numpy as np

from moretta.shared.core.array_types import Array, Float32, UInt8
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.terms import FaceForm, VoiceForm
from moretta.shared.data.clips import Clip

Form = VoiceForm | FaceForm
FrameLoader = Callable[[Path], UInt8]
"""Reads the faces of one video: uint8 [frames, height, width, 3]. A module-level function or a frozen object, so that
it reaches worker processes."""


@dataclass(frozen=True)
class ClipArray:
    """The array of one clip, in the form that was released."""

    form: Form
    read: Callable[[], Array] = field(repr=False)
    """Reaches worker processes: a partial of a module-level function."""
    codebook: Float32 | None = field(default=None, repr=False)
    """float32 [k, coefficients] that its tokens need to be read."""


def read_shard(path: Path, key: str) -> Array:
    """An array in a shard of a release."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as shard:
            return np.asarray(shard.get_tensor(key))
    except (SafetensorError, OSError) as error:
        found = f"{path.name} changed while it was audited: {error}"
        raise ReleaseError(found, expected=f"clip {key}") from error


def read_clip(clip: Clip, faces: FrameLoader | None) -> Array:
    """The sound of a clip of a corpus or, by a loader that finds and crops them, its faces.

    Returns:
        float32 [samples] at 16 kHz, mono; or uint8 [frames, height, width, 3].
    """
    from moretta.shared.data.recordings import check_length, read_sound

    if faces is None:
        sound = read_sound(clip)
        if sound is None:
            raise ClipError("no-audio", f"{clip.name} has no sound")
        return sound
    if clip.video is None:
        raise ClipError("no-video", f"{clip.name} has no video")
    check_length(clip, "pictures")
    return faces(clip.video)


@dataclass(frozen=True)
class VideoFaces:
    """Reads the faces of one video as a site would: a frozen object, so that it reaches worker processes."""

    side: int
    """Pixels of the square crops."""
    fps: float
    """Frames kept per second of video."""

    def __call__(self, path: Path) -> UInt8:
        """uint8 [frames, side, side, 3], RGB. Raises ClipError: the video cannot be read."""
        from moretta.shared.data.media import read_frames
        from moretta.shared.features.faces import cropper_of

        frames = np.stack(list(read_frames(path, fps=self.fps)))
        return cropper_of(self.side).crop_clip(frames).pictures


@dataclass(frozen=True)
class PackedArrays:
    """Arrays of one view laid end to end in one file, mapped into memory: workers share the pages, none is copied.

    Arrays are found by row number, all of one dtype and of equal shape but for the first axis.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    """Shape of one entry along the first axis."""
    spans: dict[int, tuple[int, int]]
    """First and last (exclusive) entry of each row."""

    @classmethod
    def write(cls, folder: Path, name: str, arrays: Iterable[Array], rows: Sequence[int]) -> PackedArrays:
        """Write arrays as they come; then read their row numbers from `rows`, which may grow with the arrays."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = mkstemp(prefix=f"{name}-", suffix=".bin", dir=folder)
        dtype, shape, ends = np.dtype(np.float32), (), [0]
        with open(descriptor, "wb") as file:  # noqa: PTH123 - the descriptor that mkstemp opened
            for array in arrays:
                dtype, shape = array.dtype, array.shape[1:]
                file.write(np.ascontiguousarray(array).tobytes())
                ends.append(ends[-1] + len(array))
        return cls(Path(path), dtype.str, tuple(shape), {row: (ends[i], ends[i + 1]) for i, row in enumerate(rows)})

    def __getitem__(self, row: int) -> Array:
        first, last = self.spans[row]
        return self._mapped[first:last]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}

    @cached_property
    def _mapped(self) -> Array:
        entries = max((last for _, last in self.spans.values()), default=0)
        if not entries:
            return np.zeros((0, *self.shape), self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(entries, *self.shape))
