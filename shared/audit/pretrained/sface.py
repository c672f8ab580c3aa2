"""SFace, the main face encoder, through OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import cv2
import numpy as np

from moretta.shared.audit.pretrained.encoder import Clips, Embeddings, PretrainedEncoder, weights_path
from moretta.shared.audit.pretrained.face_finder import FaceFinder, Frame, quietly, spread, whole_frame
from moretta.shared.audit.pretrained.sound import unit_length
from moretta.shared.core.terms import Modality

_SIDE = 112
_FRAMES = 5


class SFaceEncoder(PretrainedEncoder):
    """Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", IEEE TIP 2021.

    A clip is the mean of up to five frames. Where any frame shows a face, frames without one are left out; a clip
    without any is looked at as it is, unaligned.
    """

    name: ClassVar[str] = "sface"
    modality: ClassVar[Modality] = "face"
    dimensions: ClassVar[int] = 128
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ("sface", "yunet")
    threshold: ClassVar[float] = 0.15

    def __init__(self, weights: Path, finder: FaceFinder) -> None:
        self._net = quietly(lambda: cv2.FaceRecognizerSF.create(str(weights), ""))
        self._finder = finder
        self.unaligned = 0
        """Clips so far in which no face was found."""

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        return cls(weights_path("sface"), FaceFinder(weights_path("yunet")))

    def embed_many(self, clips: Clips) -> Embeddings:
        """float32 [clips, 128], rows of length 1."""
        if not len(clips):
            return np.zeros((0, self.dimensions), np.float32)
        return unit_length(np.stack([self._embed(spread(clip, _FRAMES)) for clip in clips]))

    def _embed(self, frames: list[Frame]) -> Embeddings:
        found = [face for face in map(self._finder.find, frames) if face is not None]
        aligned = [self._net.alignCrop(face.bgr, face.row) for face in found]
        if not aligned:
            self.unaligned += 1
            aligned = [whole_frame(frame, _SIDE) for frame in frames]
        features = np.concatenate([self._net.feature(picture) for picture in aligned])  # [frames, 128]
        mean: Embeddings = unit_length(features).mean(axis=0)
        return mean
