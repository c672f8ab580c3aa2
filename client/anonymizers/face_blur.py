"""Gaussian blur: a baseline that looks private and is known to be weak."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from moretta.client.anonymizers.anonymizer_registry import anonymizer
from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.privacy.noise import NoiseSource

SIGMA = 1 / 16
"""Standard deviation of the blur as a part of the crop's side: 8 pixels of 128."""


@anonymizer("blur", modality="face", version="1")
class BlurFaceAnonymizer(FaceAnonymizer):
    """Blurs every crop."""

    note = "no formal guarantee: a blur keeps coarse shape and colour, and attackers trained on blurred faces read it"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops, blurred."""
        sigma = SIGMA * pictures.shape[1]
        return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures])

    def parameters(self) -> dict[str, Any]:
        """The width of the blur."""
        return {"sigma_pixels": SIGMA * self._cropper.side}
