"""Lets an encoder take part in an audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats
from moretta.shared.audit.pretrained.encoder import PretrainedEncoder

if TYPE_CHECKING:
    from moretta.shared.audit.clipset import ClipSet

_CHUNK = 32
"""Clips decoded at once: bounds memory, whatever the size of the set."""


class PretrainedAttacker(Embedder):
    """An encoder used as it is. Without its weights it is absent: an invalid row with the command that gets them."""

    trainable: ClassVar[bool] = False
    encoder: ClassVar[type[PretrainedEncoder]]

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, and the command that would help."""
        present, reason = cls.encoder.availability()
        return None if present else reason

    def embed(self, clips: ClipSet) -> Floats:
        """float32 [clips, dimensions], rows of length 1.

        Raises:
            AttackersError: the weights are not there.
            ClipError: a clip that holds nothing, or values that are not numbers.
        """
        encoder = _loaded(self.encoder)
        read: Callable[[int], np.ndarray] = clips.waveform if encoder.modality == "voice" else clips.frames
        parts = [np.zeros((0, encoder.dimensions), np.float32)]
        for start in range(0, len(clips), _CHUNK):
            chunk = [read(index) for index in range(start, min(start + _CHUNK, len(clips)))]
            parts.append(encoder.embed_many(chunk))
        return np.concatenate(parts)


@cache
def _loaded(encoder: type[PretrainedEncoder]) -> PretrainedEncoder:
    """Loaded once per process: an audit asks for a few clips at a time."""
    return encoder.load()
