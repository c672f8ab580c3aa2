"""Facial emotion by a network that no study has trained: face-api's expression network.

Its training set is not documented, so it shows whether emotion is still there for an outsider, not how well a model
can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.shared.audit.pretrained.face_network import FaceNetwork
from moretta.shared.core.array_types import Float32
from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.pretrained.encoder import Clips

if TYPE_CHECKING:
    from torch import nn


NAMES: dict[str, str] = {
    "angry": Emotion.ANG,
    "disgusted": Emotion.DIS,
    "fearful": Emotion.FEA,
    "happy": Emotion.HAP,
    "neutral": Emotion.NEU,
    "sad": Emotion.SAD,
}
"""The network's names. Its seventh, surprised, is no emotion of the corpus: its share goes to the others."""


class ExpressionEvaluator(FaceNetwork):
    """Reads the six emotions off faces."""

    name = "face-api-expression"

    @classmethod
    def bare(cls) -> nn.Module:
        """The network without its weights."""
        from moretta.shared.audit.pretrained.face_api_nets import ExpressionNet

        return ExpressionNet()

    def probabilities(self, clips: Clips) -> Float32:
        """float32 [clips, 6] in the order of `EMOTIONS`, rows sum to 1: the mean over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        import torch

        from moretta.shared.audit.pretrained.face_api_nets import EXPRESSIONS

        names = {emotion: name for name, emotion in NAMES.items()}
        columns = [EXPRESSIONS.index(names[emotion]) for emotion in EMOTIONS]
        rows = [np.zeros((0, len(EMOTIONS)), np.float32)]
        for clip in clips:
            with torch.inference_mode():
                logits = self._net(self._pictures(clip)).cpu()
                rows.append(torch.softmax(logits[:, columns], dim=1).mean(dim=0).numpy()[None])
        return np.concatenate(rows)
