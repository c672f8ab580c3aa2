"""Encoders that others trained, as attackers: used as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Embedder, attacker_row
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.pretrained.encoder import PretrainedEncoder
from moretta.shared.audit.pretrained.face_encoders import DlibEncoder, SFaceEncoder
from moretta.shared.audit.pretrained.self_supervised import HubertEncoder, Wav2Vec2Encoder
from moretta.shared.audit.pretrained.speaker_encoders import CamPlusPlusEncoder, Ge2eEncoder
from moretta.shared.core.array_types import Float32

_CHUNK = 32
"""Clips decoded at once: bounds memory, whatever the size of the set."""


class PretrainedAttacker(Embedder):
    """An encoder used as it is. Without its weights its results are invalid, with the command that gets them."""

    trainable: ClassVar[bool] = False
    network: ClassVar[type[PretrainedEncoder]]

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, and the command that would help."""
        present, reason = cls.network.availability()
        return None if present else reason

    def embed(self, clips: ClipSet) -> Float32:
        """float32 [clips, dimensions], rows of length 1.

        Raises:
            AttackersError: the weights are not there.
            ClipError: a clip that holds nothing, or values that are not numbers.
        """
        encoder = _loaded(self.network)
        read: Callable[[int], np.ndarray] = clips.waveform if encoder.modality == "voice" else clips.frames
        parts = [np.zeros((0, encoder.dimensions), np.float32)]
        for start in range(0, len(clips), _CHUNK):
            chunk = [read(index) for index in range(start, min(start + _CHUNK, len(clips)))]
            parts.append(encoder.embed_many(chunk))
        return np.concatenate(parts)


@cache
def _loaded(encoder: type[PretrainedEncoder]) -> PretrainedEncoder:
    """Loaded once per process: an audit embeds a few clips at a time."""
    return encoder.load()


for _encoder in (CamPlusPlusEncoder, Ge2eEncoder, HubertEncoder, Wav2Vec2Encoder, SFaceEncoder, DlibEncoder):
    _settings = {"network": _encoder, "version": _encoder.version, "max_unprotected_eer": _encoder.threshold}
    attacker_row(_encoder.name, PretrainedAttacker, modality=_encoder.modality, kind="pretrained", **_settings)
