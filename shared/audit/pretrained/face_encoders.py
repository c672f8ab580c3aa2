"""Face encoders with public weights: SFace through OpenCV, and dlib's residual network as a second opinion."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np

from moretta.shared.audit.pretrained.encoder import Availability, Clips, PretrainedEncoder, weights_path
from moretta.shared.audit.scoring import unit_rows
from moretta.shared.core.array_types import Array, Float32, UInt8
from moretta.shared.core.errors import ClipError
from moretta.shared.core.terms import Modality

"""[H, W, 3]; RGB as it comes in, BGR where OpenCV takes over: names say which."""

_SFACE_SIDE, _SFACE_FRAMES = 112, 5
_LONG_SIDES = (192, 448)
_BORDER = 0.25
"""Share of a side added on each side at the last try: YuNet wants to see that a face ends."""
_MIN_SCORE = 0.6


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face, and the picture its coordinates belong to."""

    bgr: UInt8
    row: Float32
    """[15]: x, y, width, height, five landmarks as x and y, score; in pixels of `bgr`."""

    @property
    def square(self) -> tuple[int, int, int]:
        """Left, top and side of the smallest square around the box."""
        x, y, width, height = (float(value) for value in self.row[:4])
        side = max(width, height)
        return round(x + (width - side) / 2), round(y + (height - side) / 2), round(side)


class FaceFinder:
    """YuNet through OpenCV: the largest face of a frame with its eyes, nose and corners of the mouth.

    Args:
        weights: the file `yunet` of the manifest.
    """

    def __init__(self, weights: Path) -> None:
        self._net = quietly(lambda: cv2.FaceDetectorYN.create(str(weights), "", (320, 320), _MIN_SCORE))

    def find(self, rgb: UInt8) -> FoundFace | None:
        """The largest face, or None after looking at two sizes and once with a border."""
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        for long_side, border in ((_LONG_SIDES[0], 0.0), (_LONG_SIDES[1], 0.0), (_LONG_SIDES[0], _BORDER)):
            picture = _framed(bgr, long_side, border)
            self._net.setInputSize((picture.shape[1], picture.shape[0]))
            _, rows = self._net.detect(picture)
            if rows is not None and len(rows):
                return FoundFace(picture, max(rows, key=lambda row: float(row[2] * row[3])))
        return None


def spread(frames: Array, count: int) -> list[UInt8]:
    """Up to `count` frames, evenly over the clip.

    Args:
        frames: uint8 [T, H, W, 3], RGB.
        count: at least 1.

    Raises:
        ClipError: reason `empty`, or `bad-frames`.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ClipError("bad-frames", f"{frames.dtype} {list(frames.shape)}", expected="uint8 [frames, H, W, 3]")
    if not frames.size:
        raise ClipError("empty", "a clip without frames")
    middle = (np.arange(count) + 0.5) * len(frames) / count
    return [frames[index] for index in np.unique(middle.astype(int))]


def cut_square(bgr: UInt8, left: int, top: int, side: int, size: int) -> UInt8:
    """A square at [size, size, 3]; beyond the picture its edge is repeated."""
    bottom, right = top + side, left + side
    edges = (max(0, -top), max(0, bottom - bgr.shape[0]), max(0, -left), max(0, right - bgr.shape[1]))
    inside = bgr[max(0, top) : bottom, max(0, left) : right]
    whole = cv2.copyMakeBorder(inside, *edges, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def whole_frame(rgb: UInt8, size: int) -> UInt8:
    """BGR [size, size, 3] of the middle square: what is left to look at where no face was found."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    return cut_square(bgr, (width - side) // 2, (height - side) // 2, side, size)


def _framed(bgr: UInt8, long_side: int, border: float) -> UInt8:
    scale = long_side / max(bgr.shape[:2])
    height, width = (max(32, round(side * scale)) for side in bgr.shape[:2])
    picture = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if border:
        across, down = round(width * border), round(height * border)
        picture = cv2.copyMakeBorder(picture, down, down, across, across, cv2.BORDER_REPLICATE)
    return np.asarray(picture, np.uint8)


def quietly(make: Any) -> Any:
    """OpenCV 5 warns for each network that it ignores a default setting; nobody can act on that."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        return make()
    level = logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        return make()
    finally:
        logging.setLogLevel(level)


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

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 128]."""
        return np.stack([self._embed(spread(clip, _SFACE_FRAMES)) for clip in clips])

    def _embed(self, frames: list[UInt8]) -> Float32:
        found = [face for face in map(self._finder.find, frames) if face is not None]
        aligned = [self._net.alignCrop(face.bgr, face.row) for face in found]
        if not aligned:
            self.unaligned += 1
            aligned = [whole_frame(frame, _SFACE_SIDE) for frame in frames]
        features = np.concatenate([self._net.feature(picture) for picture in aligned])  # [frames, 128]
        mean: Float32 = unit_rows(features).astype(np.float32).mean(axis=0)
        return mean


_CHIP_SIDE, _CHIP_PADDING = 150, 0.25
_DLIB_FRAMES = 3
_DLIB_LONG_SIDES = (256, 480)  # the detector finds no face below 80 pixels


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

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 128]."""
        return np.stack([self._embed(spread(clip, _DLIB_FRAMES)) for clip in clips])

    def _embed(self, frames: list[UInt8]) -> Float32:
        chips = [chip for chip in map(self._chip, frames) if chip is not None]
        if not chips:
            self.unaligned += 1
            chips = [cv2.resize(frame, (_CHIP_SIDE, _CHIP_SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
        descriptors = np.stack([np.array(self._net.compute_face_descriptor(chip)) for chip in chips])  # [frames, 128]
        mean: Float32 = descriptors.mean(axis=0).astype(np.float32)
        return mean

    def _chip(self, rgb: UInt8) -> Any:
        """uint8 [150, 150, 3], eyes level, or None if there is no face."""
        for long_side in _DLIB_LONG_SIDES:
            scale = long_side / max(rgb.shape[:2])
            size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
            picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            faces = self._detect(picture, 0)
            if len(faces):
                points = self._landmarks(picture, max(faces, key=lambda face: int(face.area())))
                return self._dlib.get_face_chip(picture, points, _CHIP_SIDE, _CHIP_PADDING)
        return None
