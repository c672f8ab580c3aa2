"""Baselines of faces: as they are, one grey picture, and two that look private and are known to be weak."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.features.faces import check_frames
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Array, Speaker, anonymizer

GREY = 128
SIGMA = 1 / 16
"""Standard deviation of the blur as a part of the crop's side: 8 pixels of 128."""
BLOCKS = 8
"""Blocks along each side of a mosaic."""


@anonymizer("none", modality="face", version="1")
class NoFaceAnonymizer(FaceAnonymizer):
    """No anonymization: the anchor that shows what an attacker can do at most."""

    note = "the faces are released as they are: nothing is hidden"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops."""
        return pictures


@anonymizer("constant", modality="face", version="1")
class ConstantFaceAnonymizer(FaceAnonymizer):
    """One grey picture a clip, which hides even its length: the anchor at which every attacker must be at chance."""

    epsilon = 0.0
    note = "the picture does not depend on the clip; that there is a clip, and its label, is released"

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Pictures:  # noqa: ARG002
        """No face is looked for: whether a clip shows one is not counted either."""
        check_frames(clip)
        return np.full((1, self._cropper.side, self._cropper.side, 3), GREY, np.uint8)

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """[1, side, side, 3] of grey."""
        return np.full((1, *pictures.shape[1:]), GREY, np.uint8)


@anonymizer("blur", modality="face", version="1")
class BlurFaceAnonymizer(FaceAnonymizer):
    """Gaussian blur of every crop."""

    note = "no formal guarantee: a blur keeps coarse shape and colour, and attackers trained on blurred faces read it"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops, blurred."""
        sigma = SIGMA * pictures.shape[1]
        return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures])

    def parameters(self) -> dict[str, Any]:
        """The width of the blur."""
        return {**super().parameters(), "sigma_pixels": SIGMA * self._cropper.side}


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
        return {**super().parameters(), "blocks": BLOCKS}
