"""Age and sex of faces by a network that no study has trained: face-api's.

Its training set is not documented. It knows no anonymizer, so it is the weakest of attackers on a release, and the one
who needs nothing: no labelled people, no access to the anonymizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.shared.audit.pretrained.face_network import FaceNetwork
from moretta.shared.core.array_types import Float64
from moretta.shared.pretrained.encoder import Clips

if TYPE_CHECKING:
    from torch import nn


class AgeSexReader(FaceNetwork):
    """Reads age and sex off faces."""

    name = "face-api-age-sex"

    @classmethod
    def bare(cls) -> nn.Module:
        """The network without its weights."""
        from moretta.shared.audit.pretrained.face_api_nets import AgeSexNet

        return AgeSexNet()

    def read(self, clips: Clips) -> tuple[Float64, Float64]:
        """Ages in years [clips], and probabilities [clips, 2] in the order of `SEXES`: means over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        import torch

        ages, sexes = [np.zeros(0)], [np.zeros((0, 2))]
        for clip in clips:
            with torch.inference_mode():
                age, logits = (part.cpu().double() for part in self._net(self._pictures(clip)))
            ages.append(age.mean(0, keepdim=True).numpy())
            sexes.append(torch.softmax(logits, dim=1).mean(0, keepdim=True).numpy())
        return np.concatenate(ages), np.concatenate(sexes)
