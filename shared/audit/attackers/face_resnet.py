"""A small residual network with an angular margin, trained on other people's released frames."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.margin import Schedule
from moretta.shared.audit.learn.pictures import PictureModel

_DIMENSIONS = 64


@attacker("face-resnet", modality="face")
class FaceResnet(Embedder):
    """Learns what of a face survives the release, from people who are not attacked."""

    cost: ClassVar[int] = 10

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train to tell the people apart."""
        import torch

        from moretta.shared.audit.learn.resnet import resnet

        torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
        self._model = PictureModel(resnet(_DIMENSIONS), _DIMENSIONS, Schedule())
        self._model.fit(clips, seed=seed)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, 64]."""
        return self._model.embed(clips)
