"""Dense landmarks of a face: 468 points by MediaPipe's face mesh, through OpenCV.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", CVPR Workshop on Computer
Vision for Augmented and Virtual Reality 2019. The network is used as it is; nobody trains it here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.features.face_detectors import FaceBox, YuNet
from moretta.shared.features.faces import FaceCropper, cut
from moretta.shared.pretrained import cached, fetch_command
from moretta.shared.pretrained.encoder import weights_path

POINTS = 468
SIDE = 192
"""Pixels of the square that the network reads."""
EYES = ((33, 133), (362, 263))
"""Outer and inner corner of the eye on the left of the picture, inner and outer of that on the right."""
_PLACES, _PRESENCE = "conv2d_21", "conv2d_31"
"""Outputs: 468 x 3 in pixels of the square; and the logit that there is a face at all."""
_REACH = 1.5
"""Side of the network's square, in sizes of the detected face: it must hold forehead and chin (section 3.1)."""
_BORDER = 0.25
"""Share of a side added around a picture whose face fills it: a detector wants to see that a face ends."""


class FaceMesh:
    """Finds a face and its points."""

    name = "face-mesh"

    def __init__(self, weights: Path, detector: YuNet) -> None:
        self._net: Any = cv2.dnn.readNetFromTFLite(str(weights))
        self._detector = detector

    @classmethod
    def missing(cls) -> str | None:
        """The reason why it cannot run here, with the command that helps; None if its weights are here, unchanged."""
        if all(cached(name) is not None for name in (cls.name, "yunet")):
            return None
        return f"no weights of {cls.name}: run `{fetch_command(cls.name)}`"

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache. Raises AttackersError: they are not there."""
        return cls(weights_path(cls.name), YuNet(weights_path("yunet")))

    def points(self, rgb: UInt8) -> Float32 | None:
        """float32 [468, 2] in pixels of a picture [height, width, 3], right and down; None where no face is found."""
        border = round(_BORDER * max(rgb.shape[:2]))
        for margin in (0, border):
            wide = cv2.copyMakeBorder(rgb, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
            picture = np.asarray(wide, np.uint8)
            if found := self._detector.find_all(picture):
                box = found[0]
                points = self._inside(picture, FaceBox(box.x, box.y, box.size * _REACH / YuNet.MARGIN))
                return None if points is None else points - margin
        return None

    def _inside(self, rgb: UInt8, square: FaceBox) -> Float32 | None:
        """The points in one square, in pixels of the picture; None where the network itself sees no face."""
        inside = self.in_square(cut(rgb, square, SIDE))
        if inside is None:
            return None
        corner = np.array([square.x, square.y], np.float32) - square.size / 2
        return np.asarray(corner + (inside + 0.5) * square.size / SIDE - 0.5, np.float32)

    def in_square(self, crop: UInt8) -> Float32 | None:
        """The points in a crop [192, 192, 3] that `cropper` made, in its pixels; None where there is no face."""
        self._net.setInput(cv2.dnn.blobFromImage(crop.astype(np.float32) / 255))
        if float(np.ravel(self._net.forward(_PRESENCE))[0]) < 0:
            return None
        return np.asarray(self._net.forward(_PLACES), np.float32).reshape(-1, 3)[:, :2]

    def in_clip(self, crops: UInt8) -> Float32 | None:
        """float32 [frames, 468, 2] of the crops of a clip. A frame without a face has the nearest frame's points; None
        if no frame shows one."""
        found = [self.in_square(crop) for crop in crops]
        seen = [number for number, points in enumerate(found) if points is not None]
        if not seen:
            return None
        nearest = (min(seen, key=lambda n: abs(n - number)) for number in range(len(found)))
        return np.stack([points for n in nearest if (points := found[n]) is not None])

    @staticmethod
    def cropper() -> FaceCropper:
        """Cropper of the squares that the network reads. Raises AttackersError: the detector's weights are absent."""
        return FaceCropper(SIDE, _WideYuNet(weights_path("yunet")))


class _WideYuNet(YuNet):
    MARGIN = _REACH


def eye_distance(points: Float32) -> float:
    """Between the middles of both eyes, in the unit of points [468, 2]."""
    left, right = (points[list(corners)].mean(axis=0) for corners in EYES)
    return float(np.hypot(*(left - right)))
