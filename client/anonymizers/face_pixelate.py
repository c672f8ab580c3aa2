"""Mosaic: a baseline that looks private and is known to be weak."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from moretta.client.anonymizers.anonymizer_registry import anonymizer
from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.privacy.noise import NoiseSource

BLOCKS = 8
"""Blocks along each side of a crop."""


@anonymizer("pixelate", modality="face", version="1")
class PixelateFaceAnonymizer(FaceAnonymizer):
    """Replaces each block of pixels by its mean."""

    note = "no formal guarantee: a mosaic keeps coarse shape and colour, and attackers trained on mosaics read it"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops as mosaics of 8 x 8 blocks."""
        side = pictures.shape[1]
        means = (cv2.resize(picture, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA) for picture in pictures)
        return np.stack([cv2.resize(mean, (side, side), interpolation=cv2.INTER_NEAREST) for mean in means])

    def parameters(self) -> dict[str, Any]:
        """The number of blocks."""
        return {"blocks": BLOCKS}
