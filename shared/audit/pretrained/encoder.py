"""What all pretrained encoders have in common: they are found, loaded once, and map clips to points on a sphere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import AttackersError
from moretta.shared.core.terms import Modality
from moretta.shared.pretrained import cached, fetch_command

Embeddings = npt.NDArray[np.float32]
Clips = Sequence[npt.NDArray[Any]]


class Availability(NamedTuple):
    """Whether something can run here; if not, why, with the command that would help."""

    present: bool
    reason: str = ""


class PretrainedEncoder(ABC):
    """A network trained by others, used as it is. Compute threads are the caller's: one per worker process."""

    name: ClassVar[str]
    modality: ClassVar[Modality]
    dimensions: ClassVar[int]
    version: ClassVar[str]
    """Changes whenever the same clip would get another embedding: part of every cache key."""
    weights: ClassVar[tuple[str, ...]]
    """Entries of the manifest it needs."""
    threshold: ClassVar[float]
    """EER on unprotected clips above which the encoder counts as broken: its rows are invalid, not "private"."""

    @classmethod
    def availability(cls) -> Availability:
        """Whether the weights are here, unchanged."""
        absent = [name for name in cls.weights if cached(name) is None]
        if not absent:
            return Availability(True)
        return Availability(False, f"no weights of {', '.join(absent)}: run `{fetch_command(*absent)}`")

    @classmethod
    @abstractmethod
    def load(cls) -> Self:
        """Read the weights from the cache.

        Raises:
            AttackersError: they are not there.
        """

    @abstractmethod
    def embed_many(self, clips: Clips) -> Embeddings:
        """float32 [clips, dimensions], rows of length 1.

        Args:
            clips: voice: [samples] each, float32 at 16 kHz in [-1, 1]; face: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip that is empty or has values that are not numbers.
        """


def weights_path(name: str) -> Path:
    """The cached weights called `name`.

    Raises:
        AttackersError: they are absent or damaged.
    """
    path = cached(name)
    if path is None:
        raise AttackersError(f"no weights of {name} in the cache", fix=f"run `{fetch_command(name)}`")
    return path


def load_state(path: Path) -> dict[str, Any]:
    """A torch checkpoint of tensors and plain containers. Nothing else is unpickled.

    Raises:
        AttackersError: not such a checkpoint.
    """
    import pickle  # only for the name of its error

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise AttackersError(f"{path.name} is no torch checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise AttackersError(f"{path.name} holds a {type(state).__name__}", expected="a dictionary of tensors")
    return state
