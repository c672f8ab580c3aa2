"""The shape of a head as a biometric: the identity that is fitted to the dense landmarks of some frames.

Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022. Network and head model come with the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.face_encoders import spread
from moretta.shared.core.array_types import Float32
from moretta.shared.core.terms import Modality
from moretta.shared.pretrained.encoder import Clips, PretrainedEncoder

if TYPE_CHECKING:
    from moretta.shared.features.dense_landmarks import LandmarkReader


class FaceShape(PretrainedEncoder):
    """One head is fitted to up to six frames of a clip, whatever it does and wherever it looks.

    Pictures have to be faces, as releases are: nothing looks for them. A component of identity that landmarks say
    little about stays near 0, and so counts little in a comparison.
    """

    name = "face-shape"
    modality: ClassVar[Modality] = "face"
    dimensions = 60
    threshold = 0.35
    FRAMES = 6

    def __init__(self, reader: LandmarkReader) -> None:
        self._reader = reader

    @classmethod
    def load(cls) -> Self:
        """Nothing has to be in the cache."""
        from moretta.shared.features.dense_landmarks import shipped_landmarks

        return cls(shipped_landmarks())

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 60]."""
        chosen = [np.stack(spread(clip, self.FRAMES)) for clip in clips]
        fitted = [self._reader.fit(frames, steadiness=np.inf).identity for frames in chosen]
        return np.stack(fitted).astype(np.float32)
