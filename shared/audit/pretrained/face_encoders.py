"""Face encoders with public weights: SFace through OpenCV, and dlib's residual network as a second opinion.

Pictures are [H, W, 3]; RGB as it comes in, BGR where OpenCV takes over: names say which.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import cv2
import numpy as np

from moretta.shared.core.array_types import Array, Float32, UInt8, unit_rows
from moretta.shared.core.errors import ClipError
from moretta.shared.core.terms import Modality
from moretta.shared.pretrained.encoder import Clips, PretrainedEncoder, weights_path

_LONG_SIDES = (192, 448)
_BORDER = 0.25
"""Share of a side added on each side at the last try: YuNet wants to see that a face ends."""
_MIN_SCORE = 0.6


class FoundFace(NamedTuple):
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
    """YuNet through OpenCV: the largest face of a frame with its eyes, nose and corners of the mouth."""

    def __init__(self, weights: Path) -> None:
        self._net = quietly(lambda: cv2.FaceDetectorYN.create(str(weights), "", (320, 320), _MIN_SCORE))

    def find(self, rgb: UInt8) -> FoundFace | None:
        """The largest face, or None after looking at two sizes and once with a border."""
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        for long_side, border in ((_LONG_SIDES[0], 0.0), (_LONG_SIDES[1], 0.0), (_LONG_SIDES[0], _BORDER)):
            picture = _scaled(bgr, long_side, least=32)
            if border:
                down, across = (round(side * border) for side in picture.shape[:2])
                picture = cv2.copyMakeBorder(picture, down, down, across, across, cv2.BORDER_REPLICATE)
            self._net.setInputSize((picture.shape[1], picture.shape[0]))
            _, rows = self._net.detect(picture)
            if rows is not None and len(rows):
                return FoundFace(picture, max(rows, key=lambda row: float(row[2] * row[3])))
        return None


def spread(frames: Array, count: int) -> list[UInt8]:
    """Up to `count` frames of uint8 [T, H, W, 3], evenly over the clip. Raises ClipError: reason `empty`, or
    `bad-frames`."""
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
    whole = cv2.copyMakeBorder(bgr[max(0, top) : bottom, max(0, left) : right], *edges, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def whole_frame(rgb: UInt8, size: int) -> UInt8:
    """BGR [size, size, 3] of the middle square: what is left to look at where no face was found."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    return cut_square(bgr, (width - side) // 2, (height - side) // 2, side, size)


def crops(finder: FaceFinder, frames: list[UInt8], crop: Callable[[FoundFace], UInt8], side: int) -> list[UInt8]:
    """Crops of the frames that show a face; the middle [side, side, 3] of every frame where none does. BGR."""
    found = [crop(face) for face in map(finder.find, frames) if face is not None]
    return found or [whole_frame(frame, side) for frame in frames]


def _scaled(picture: UInt8, long_side: int, *, least: int = 1) -> UInt8:
    """Resized to this long side; no side is shorter than `least`."""
    scale = long_side / max(picture.shape[:2])
    height, width = (max(least, round(side * scale)) for side in picture.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8)


def quietly(make: Callable[[], Any]) -> Any:
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

    name = "sface"
    modality: ClassVar[Modality] = "face"
    dimensions = 128
    weights = ("sface", "yunet")
    threshold = 0.15
    SIDE, FRAMES = 112, 5

    def __init__(self, weights: Path, finder: FaceFinder) -> None:
        self._net = quietly(lambda: cv2.FaceRecognizerSF.create(str(weights), ""))
        self._finder = finder

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        return cls(weights_path("sface"), FaceFinder(weights_path("yunet")))

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 128]."""
        rows: list[Float32] = []
        for frames in (spread(clip, self.FRAMES) for clip in clips):
            aligned = crops(self._finder, frames, lambda face: self._net.alignCrop(face.bgr, face.row), self.SIDE)
            features = np.concatenate([self._net.feature(picture) for picture in aligned])  # [frames, 128]
            rows.append(unit_rows(features).astype(np.float32).mean(axis=0))
        return np.stack(rows)


class DlibEncoder(PretrainedEncoder):
    """A ResNet of 29 layers (King, dlib, 2017) with dlib's own detector and landmarks.

    A clip is the mean of up to three frames; one without a face is looked at as it is, unaligned.
    """

    name = "dlib"
    modality: ClassVar[Modality] = "face"
    dimensions = 128
    weights = ("dlib-resnet", "dlib-landmarks5")
    threshold = 0.15
    SIDE, PADDING, FRAMES = 150, 0.25, 3
    LONG_SIDES = (256, 480)
    """The detector finds no face below 80 pixels."""

    def __init__(self, resnet: Path, landmarks: Path) -> None:
        import dlib

        self._dlib = dlib
        self._detect = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._net = dlib.face_recognition_model_v1(str(resnet))

    @classmethod
    def missing(cls) -> str | None:
        """Whether dlib or the weights are absent, and the command that would help."""
        if find_spec("dlib") is None:
            return "the package dlib is not installed: run `pip install dlib-bin`"
        return super().missing()

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        return cls(weights_path("dlib-resnet"), weights_path("dlib-landmarks5"))

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 128]."""
        rows = []
        for frames in (spread(clip, self.FRAMES) for clip in clips):
            chips = [chip for chip in map(self._chip, frames) if chip is not None]
            side = (self.SIDE, self.SIDE)
            chips = chips or [cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in frames]
            descriptors = np.stack([np.array(self._net.compute_face_descriptor(chip)) for chip in chips])
            rows.append(descriptors.mean(axis=0).astype(np.float32))  # of [frames, 128]
        return np.stack(rows)

    def _chip(self, rgb: UInt8) -> Any:
        """uint8 [150, 150, 3], eyes level, or None if there is no face."""
        for long_side in self.LONG_SIDES:
            picture = _scaled(rgb, long_side)
            faces = self._detect(picture, 0)
            if len(faces):
                points = self._landmarks(picture, max(faces, key=lambda face: int(face.area())))
                return self._dlib.get_face_chip(picture, points, self.SIDE, self.PADDING)
        return None


FACE_ENCODERS = (SFaceEncoder, DlibEncoder)
