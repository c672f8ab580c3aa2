"""Detectors of faces: the best one that this machine has, by a fixed order; statements have its name.

`yunet`   OpenCV's FaceDetectorYN, when its weights are in the user's cache
`hog`     dlib's frontal detector, whose weights are inside the library
`none`    finds nothing: every crop is a centre crop

OpenCV 5 has no Haar cascades any more, so none is offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from moretta.shared.core.array_types import UInt8

Frame = UInt8
"""[height, width, 3], RGB."""


@dataclass(frozen=True, slots=True)
class FaceBox:
    """The square to cut out around a face, by its centre, in pixels of the frame; it may reach beyond the frame."""

    x: float
    y: float
    size: float


class FaceDetector(Protocol):
    """Finds the faces of a frame."""

    name: str

    def find_all(self, frame: Frame) -> list[FaceBox]:
        """The boxes around faces, with margin for forehead and chin, the largest first."""


class YuNet:
    """YuNet (Wu et al., Machine Intelligence Research 2023) through OpenCV."""

    name = "yunet"
    MARGIN = 1.25  # its boxes reach from the hairline to the chin
    _LONG_SIDES = (192, 448)  # the small picture costs 2 ms, and faces that fill a frame are found in it
    _MIN_SCORE = 0.6

    def __init__(self, weights: Path) -> None:
        self._weights = str(weights)
        self._networks: dict[tuple[int, int], Any] = {}

    def find_all(self, frame: Frame) -> list[FaceBox]:
        """See `FaceDetector`."""
        for long_side in self._LONG_SIDES:
            picture, scale = _resized(frame, long_side)
            _, faces = self._network(picture.shape[1], picture.shape[0]).detect(picture[:, :, ::-1].copy())
            if faces is not None and len(faces):
                boxes = []
                for x, y, width, height in sorted((face[:4] for face in faces), key=lambda f: -float(f[2] * f[3])):
                    size = self.MARGIN * max(float(width), float(height))
                    boxes.append(FaceBox(float(x + width / 2) / scale, float(y + height / 2) / scale, size / scale))
                return boxes
        return []

    def _network(self, width: int, height: int) -> Any:
        if (width, height) not in self._networks:
            # OpenCV 5 warns once for each network that it ignores a default setting; nobody can act on that.
            logging: Any = getattr(cv2.utils, "logging", None)
            level = logging and logging.setLogLevel(logging.LOG_LEVEL_ERROR)
            try:
                network = cv2.FaceDetectorYN.create(self._weights, "", (width, height), self._MIN_SCORE)
            finally:
                if logging:
                    logging.setLogLevel(level)
            self._networks[width, height] = network
        return self._networks[width, height]


class Hog:
    """dlib's frontal detector: histograms of oriented gradients (Dalal and Triggs, CVPR 2005)."""

    name = "hog"
    MARGIN = 1.5  # its boxes reach from the brows to the chin
    _LONG_SIDES = (256, 640)  # no face below 80 pixels is found, so small frames are enlarged
    _SMALLEST = 80

    def __init__(self) -> None:
        import dlib

        self._detect = dlib.get_frontal_face_detector()

    def find_all(self, frame: Frame) -> list[FaceBox]:
        """See `FaceDetector`. Where the largest is small, a face three fifths its size is searched for, too."""
        small, large = self._LONG_SIDES
        boxes = self._at(frame, small)
        if not boxes:
            return self._at(frame, large)
        share = boxes[0].size / self.MARGIN / max(frame.shape[:2])
        enough = round(self._SMALLEST / (0.6 * share))
        return [*boxes, *self._at(frame, min(large, enough))] if enough > small else boxes

    def _at(self, frame: Frame, long_side: int) -> list[FaceBox]:
        picture, scale = _resized(frame, long_side)
        boxes = []
        for face in self._detect(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 0):
            size = self.MARGIN * max(face.width(), face.height())
            x, y = (face.left() + face.right() + 1) / 2, (face.top() + face.bottom() + 1) / 2
            boxes.append(FaceBox(x / scale, y / scale, size / scale))
        return sorted(boxes, key=lambda box: -box.size)


class NoDetector:
    """Finds no face in anything."""

    name = "none"

    def find_all(self, frame: Frame) -> list[FaceBox]:  # noqa: ARG002 - the protocol's argument
        """None."""
        return []


def best_detector() -> FaceDetector:
    """The first of `yunet`, `hog` and `none` that this machine can run."""
    from moretta.shared.pretrained.cache import cached

    if (weights := cached("yunet")) is not None:
        return YuNet(weights)
    try:
        return Hog()
    except ImportError:
        return NoDetector()


def _resized(frame: Frame, long_side: int) -> tuple[Frame, float]:
    scale = long_side / max(frame.shape[:2])
    height, width = (max(32, round(side * scale)) for side in frame.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=method)), scale
