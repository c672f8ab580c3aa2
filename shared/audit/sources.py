"""Where the arrays of a set of clips come from: memory, releases, a corpus. Each can be sent to a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.terms import VoiceForm
from moretta.shared.data.clips import Clip

Form = VoiceForm | Literal["frames"]
Array = npt.NDArray[Any]
FrameLoader = Callable[[Path], npt.NDArray[np.uint8]]
"""Reads the faces of one video: uint8 [frames, height, width, 3]. A module-level function or a frozen object, so that
it reaches worker processes."""


class ArraySource(Protocol):
    """Arrays by number, read when asked for, in the form that was released."""

    def form(self, index: int) -> Form:
        """The form of one array."""

    def array(self, index: int) -> Array:
        """One array."""

    def codebook(self, index: int) -> npt.NDArray[np.float32] | None:
        """float32 [k, coefficients] that the tokens of this array need, else None."""


@dataclass(frozen=True)
class MemorySource:
    """Arrays held in memory."""

    arrays: Sequence[Array]
    kind: Form
    book: npt.NDArray[np.float32] | None = None

    def form(self, index: int) -> Form:  # noqa: ARG002 - one form for all
        """The form of all arrays."""
        return self.kind

    def array(self, index: int) -> Array:
        """One array."""
        return self.arrays[index]

    def codebook(self, index: int) -> npt.NDArray[np.float32] | None:  # noqa: ARG002
        """The codebook of all arrays."""
        return self.book


@dataclass(frozen=True)
class ConstantSource:
    """The same array for every clip: what an anchor that must come out at chance is made of."""

    value: Array
    kind: Form
    book: npt.NDArray[np.float32] | None = None

    def form(self, index: int) -> Form:  # noqa: ARG002
        """The form of the array."""
        return self.kind

    def array(self, index: int) -> Array:  # noqa: ARG002
        """The array."""
        return self.value

    def codebook(self, index: int) -> npt.NDArray[np.float32] | None:  # noqa: ARG002
        """The codebook of the array."""
        return self.book


@dataclass(frozen=True)
class ReleaseFolder:
    """One release folder, as far as reading arrays needs it."""

    folder: Path
    form: Form
    codebook: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class ReleaseSource:
    """Arrays in the shards of one or many release folders."""

    shelves: tuple[ReleaseFolder, ...]
    entries: tuple[tuple[int, str, str], ...]
    """Shelf, shard file and key of each array."""

    def form(self, index: int) -> Form:
        """The form that the array's site released."""
        return self.shelves[self.entries[index][0]].form

    def array(self, index: int) -> Array:
        """Read one array from its shard."""
        from safetensors import SafetensorError, safe_open

        shelf, file, key = self.entries[index]
        path = self.shelves[shelf].folder / file
        try:
            with safe_open(path, framework="numpy") as shard:
                array: Array = shard.get_tensor(key)
                return array
        except (SafetensorError, OSError) as error:
            raise ReleaseError(f"{path.name} changed while it was audited: {error}", expected=f"clip {key}") from error

    def codebook(self, index: int) -> npt.NDArray[np.float32] | None:
        """The codebook of the array's site."""
        return self.shelves[self.entries[index][0]].codebook


@dataclass(frozen=True)
class AudioFiles:
    """The sound of clips that have some, decoded to 16 kHz mono when asked for."""

    clips: tuple[Clip, ...]

    def form(self, index: int) -> Form:  # noqa: ARG002
        """Always `waveform`."""
        return "waveform"

    def array(self, index: int) -> Array:
        """float32 [samples] at 16 kHz."""
        from moretta.shared.data.recordings import read_sound

        clip = self.clips[index]
        sound = read_sound(clip)
        if sound is None:
            raise ClipError("no-audio", f"{clip.name} has no sound")
        return sound

    def codebook(self, index: int) -> None:
        """Sound needs none."""


@dataclass(frozen=True)
class VideoFiles:
    """The videos of clips that have one, read by a loader that finds and crops the faces."""

    clips: tuple[Clip, ...]
    loader: FrameLoader = field(repr=False)

    def form(self, index: int) -> Form:  # noqa: ARG002
        """Always `frames`."""
        return "frames"

    def array(self, index: int) -> Array:
        """uint8 [frames, height, width, 3]."""
        from moretta.shared.data.recordings import check_length

        clip = self.clips[index]
        if clip.video is None:
            raise ClipError("no-video", f"{clip.name} has no video")
        check_length(clip, "pictures")
        return self.loader(clip.video)

    def codebook(self, index: int) -> None:
        """Frames need none."""
