"""A time-delay network with attentive pooling and an angular margin, trained on other speakers' released clips."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.margin import Schedule
from moretta.shared.audit.learn.sequences import SequenceModel

_DIMENSIONS = 96


@attacker("voice-tdnn", modality="voice")
class VoiceTdnn(Embedder):
    """What attackers of the VoicePrivacy Challenge train, at the size that a few hundred clips can feed."""

    cost: ClassVar[int] = 10

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train to tell the speakers apart."""
        import torch

        from moretta.shared.audit.learn.tdnn import tdnn

        torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
        self._model = SequenceModel(tdnn(clips.mfcc(0).shape[1], _DIMENSIONS), _DIMENSIONS, Schedule())
        self._model.fit(clips, seed=seed)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, 96]."""
        return self._model.embed(clips)
