"""A convolutional network on MFCC sequences, closed set, as the original project attacked with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Floats, Identifier, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.margin import Schedule
from moretta.shared.audit.learn.sequences import SequenceModel

_DIMENSIONS = 64


@attacker("voice-cnn", modality="voice")
class VoiceCnn(Identifier):
    """Plain softmax over the enrolled speakers."""

    cost: ClassVar[int] = 6

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train on random crops of the enrolment clips."""
        import torch

        from moretta.shared.audit.learn.tdnn import cnn

        torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
        self.speakers = clips.speakers
        network = cnn(clips.mfcc(0).shape[1], _DIMENSIONS)
        self._model = SequenceModel(network, _DIMENSIONS, Schedule(margin=0.0))
        self._model.fit(clips, seed=seed)

    def scores(self, clips: ClipSet) -> Floats:
        """Logits, [clips, speakers]."""
        return (self._model.scale * self._model.cosines(clips)).astype(np.float32)
