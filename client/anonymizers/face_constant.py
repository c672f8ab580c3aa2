"""The same grey picture for every clip. The anchor at which every attacker must be at chance."""

from __future__ import annotations

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import Array, Speaker, anonymizer
from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.features.faces import check_frames
from moretta.shared.privacy.noise import NoiseSource

GREY = 128


@anonymizer("constant", modality="face", version="1")
class ConstantFaceAnonymizer(FaceAnonymizer):
    """Releases one grey picture a clip: even the length of the clip is hidden."""

    epsilon = 0.0
    note = "the picture does not depend on the clip; that there is a clip, and its label, is released"

    def _released(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> Pictures:  # noqa: ARG002
        """Without a look for faces: whether a clip shows one is not counted either."""
        check_frames(frames)
        return np.full((1, self._cropper.side, self._cropper.side, 3), GREY, np.uint8)

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """[1, side, side, 3] of grey."""
        return np.full((1, *pictures.shape[1:]), GREY, np.uint8)
