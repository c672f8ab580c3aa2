"""Base of pretrained encoders: their weights, preparation of sound, and embeddings of length 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32, unit_rows
from moretta.shared.core.errors import AttackersError, ClipError, StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.data.media import SAMPLE_RATE
from moretta.shared.pretrained import cached, fetch_command

Clips = Sequence[Array]
"""Voice: [samples] each, float32 at 16 kHz in [-1, 1]; face: [frames, H, W, 3] each, uint8 RGB."""


class PretrainedEncoder(ABC):
    """A network trained by others, used as it is. Compute threads are the caller's: one per worker process."""

    name: ClassVar[str]
    modality: ClassVar[Modality]
    dimensions: ClassVar[int]
    version: ClassVar[str] = "1"
    """Changes whenever the same clip would get another embedding: part of every cache key."""
    weights: ClassVar[tuple[str, ...]] = ()
    """Entries of the manifest it needs."""
    threshold: ClassVar[float]
    """EER on unprotected clips above which the encoder counts as broken: its results are invalid, not "private"."""

    @classmethod
    def missing(cls) -> str | None:
        """The reason why it cannot run here, with the command that helps; None if its weights are here, unchanged."""
        absent = [name for name in cls.weights if cached(name) is None]
        return f"no weights of {', '.join(absent)}: run `{fetch_command(*absent)}`" if absent else None

    @classmethod
    @abstractmethod
    def load(cls) -> Self:
        """Read the weights from the cache. Raises AttackersError: they are not there."""

    def embed_many(self, clips: Clips) -> Float32:
        """float32 [clips, dimensions], rows of length 1. Raises ClipError: a clip is empty or not all numbers."""
        if not len(clips):
            return np.zeros((0, self.dimensions), np.float32)
        return unit_rows(self.vectors(clips)).astype(np.float32)

    @abstractmethod
    def vectors(self, clips: Clips) -> npt.NDArray[np.floating]:
        """[clips, dimensions] of one clip or more, of any length."""


EncoderT = TypeVar("EncoderT", bound=PretrainedEncoder)


def public_network(kind: type[EncoderT]) -> EncoderT:
    """Load an encoder that coordinator and sites embed clips by. Raises StudyError: its weights are not on this
    machine, unchanged."""
    if (reason := kind.missing()) is not None:
        raise StudyError(
            f"the public network {kind.name!r} is not on this machine: {reason}",
            expected="its weights at the coordinator and at every site, where clips are embedded",
            fix=reason[reason.index("run `") :],
        )
    return kind.load()


def weights_path(name: str) -> Path:
    """The cached weights called `name`. Raises AttackersError: they are absent or damaged."""
    path = cached(name)
    if path is None:
        raise AttackersError(f"no weights of {name} in the cache", fix=f"run `{fetch_command(name)}`")
    return path


def load_state(path: Path) -> dict[str, Any]:
    """A torch checkpoint of tensors and plain containers. Nothing else is unpickled. Raises AttackersError: not such a
    checkpoint."""
    import pickle  # only for the name of its error

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise AttackersError(f"{path.name} is no torch checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise AttackersError(f"{path.name} holds a {type(state).__name__}", expected="a dictionary of tensors")
    return state


_BLOCK = SAMPLE_RATE // 40  # 25 ms
_SILENCE_DB = 35.0
_MIN_SAMPLES = SAMPLE_RATE // 2


def speech_only(samples: Float32) -> Float32:
    """Cut silence at both ends of [samples] at 16 kHz, and make the rest at least half a second long; contiguous.

    Encoders read the room out of silence, not the speaker. A block of 25 ms is silent if it is 35 dB below the loudest.
    A short clip is repeated: encoders take zeros for a room, not for nothing.

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
    return np.resize(samples, _MIN_SAMPLES) if len(samples) < _MIN_SAMPLES else samples
