"""A convolutional network on released frames, closed set, as the original project attacked with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Floats, Identifier, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.margin import Schedule
from moretta.shared.audit.learn.pictures import PictureModel

_DIMENSIONS = 64


@attacker("face-cnn", modality="face")
class FaceCnn(Identifier):
    """Plain softmax over the enrolled people."""

    cost: ClassVar[int] = 6

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train on the frames of the enrolment clips."""
        import torch

        from moretta.shared.audit.learn.resnet import cnn

        torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
        self.speakers = clips.speakers
        self._model = PictureModel(cnn(_DIMENSIONS), _DIMENSIONS, Schedule(margin=0.0))
        self._model.fit(clips, seed=seed)

    def scores(self, clips: ClipSet) -> Floats:
        """Logits, [clips, people]."""
        return (self._model.scale * self._model.cosines(clips)).astype(np.float32)
