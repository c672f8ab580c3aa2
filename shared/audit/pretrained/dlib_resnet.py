"""dlib's face encoder: another network, trained by others on other pictures, as a second opinion. Needs dlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np

from moretta.shared.audit.pretrained.encoder import Availability, Clips, Embeddings, PretrainedEncoder, weights_path
from moretta.shared.audit.pretrained.face_finder import Frame, spread
from moretta.shared.audit.pretrained.sound import unit_length
from moretta.shared.core.terms import Modality

_CHIP_SIDE, _CHIP_PADDING = 150, 0.25
_FRAMES = 3
_LONG_SIDES = (256, 480)  # the detector finds no face below 80 pixels


class DlibEncoder(PretrainedEncoder):
    """A ResNet of 29 layers (King, dlib, 2017) with dlib's own detector and landmarks.

    A clip is the mean of up to three frames; one without a face is looked at as it is, unaligned.
    """

    name: ClassVar[str] = "dlib"
    modality: ClassVar[Modality] = "face"
    dimensions: ClassVar[int] = 128
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ("dlib-resnet", "dlib-landmarks5")
    threshold: ClassVar[float] = 0.15

    def __init__(self, resnet: Path, landmarks: Path) -> None:
        import dlib

        self._dlib = dlib
        self._detect = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._net = dlib.face_recognition_model_v1(str(resnet))
        self.unaligned = 0
        """Clips so far in which no face was found."""

    @classmethod
    def availability(cls) -> Availability:
        """Whether dlib and the weights are here."""
        if find_spec("dlib") is None:
            return Availability(False, "the package dlib is not installed: run `pip install dlib-bin`")
        return super().availability()

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        return cls(weights_path("dlib-resnet"), weights_path("dlib-landmarks5"))

    def embed_many(self, clips: Clips) -> Embeddings:
        """float32 [clips, 128], rows of length 1."""
        if not len(clips):
            return np.zeros((0, self.dimensions), np.float32)
        return unit_length(np.stack([self._embed(spread(clip, _FRAMES)) for clip in clips]))

    def _embed(self, frames: list[Frame]) -> Embeddings:
        chips = [chip for chip in map(self._chip, frames) if chip is not None]
        if not chips:
            self.unaligned += 1
            chips = [cv2.resize(frame, (_CHIP_SIDE, _CHIP_SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
        descriptors = np.stack([np.array(self._net.compute_face_descriptor(chip)) for chip in chips])  # [frames, 128]
        mean: Embeddings = descriptors.mean(axis=0).astype(np.float32)
        return mean

    def _chip(self, rgb: Frame) -> Any:
        """uint8 [150, 150, 3], eyes level, or None if there is no face."""
        for long_side in _LONG_SIDES:
            scale = long_side / max(rgb.shape[:2])
            size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
            picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            faces = self._detect(picture, 0)
            if len(faces):
                points = self._landmarks(picture, max(faces, key=lambda face: int(face.area())))
                return self._dlib.get_face_chip(picture, points, _CHIP_SIDE, _CHIP_PADDING)
        return None
