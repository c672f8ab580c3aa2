"""Faces cut out of frames, all of one size, steady over a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError
from moretta.shared.features.face_detectors import FaceBox, FaceDetector, Frame, best_detector
from moretta.shared.features.face_people import check_shown, find_people, shows

MIN_FRAME_SIDE = 16
"""Pixels. A smaller picture shows no face that could be anonymized."""
MAX_FRAME_SIDE = 8192
_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True, slots=True)
class CroppedClip:
    """The faces of a clip and how they were found."""

    pictures: npt.NDArray[np.uint8]
    """[frames, side, side, 3], RGB."""
    borrowed: int
    """Frames without a usable face of their own: cut where the neighbouring frame had one, or replaced by it."""
    centred: bool
    """No frame showed a face: all are centre crops."""
    with_others: int = 0
    """Frames in which somebody else's face was seen, too; it is in no crop."""


class FaceCropper:
    """Cuts faces out of frames.

    Args:
        side: height and width of the crops, in pixels.
        detector: what finds faces; the best one of this machine if not given.
    """

    def __init__(self, side: int, detector: FaceDetector | None = None) -> None:
        self.side = side
        self._detector = best_detector() if detector is None else detector

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return self._detector.name

    def crop(self, frame: Frame) -> tuple[npt.NDArray[np.uint8], bool]:
        """Cut the largest face out of one frame [height, width, 3] of RGB.

        Returns:
            The crop [side, side, 3], and whether a face was found; if not, it is the centre of the frame.

        Raises:
            ClipError: not a picture.
        """
        check_frames(frame[None] if isinstance(frame, np.ndarray) else frame)
        boxes = self._detector.find_all(frame)
        return cut(frame, boxes[0] if boxes else _centre(frame), self.side), bool(boxes)

    def crop_clip(self, frames: npt.NDArray[np.uint8]) -> CroppedClip:
        """Cut the speaker's face out of each frame of a clip, [frames, height, width, 3] of RGB.

        The crops have one size, and their path is smoothed, so that the detector's jitter does not show in the video.
        Where somebody else's face would be in a crop, the nearest frame's takes its place.

        Raises:
            ClipError: not a clip of pictures; or reason `several-faces`, see `find_people`.
        """
        check_frames(frames)
        count, height, width = frames.shape[:3]
        people = find_people([self._detector.find_all(frame) for frame in frames], width=width, height=height)
        if people is None:
            pictures = np.stack([cut(frame, _centre(frame), self.side) for frame in frames])
            return CroppedClip(pictures, borrowed=0, centred=True)
        own = [people.speaker.boxes.get(number) for number in range(count)]
        path = _smooth(_filled(own))
        doubtful = people.speaker.doubtful
        others = [people.others_at(number) for number in range(count)]
        clean = [n for n in range(count) if n not in doubtful and not any(shows(path[n], b) for b in others[n])]
        check_shown(count - len(clean), count)
        nearest = [min(clean, key=lambda n: abs(n - number)) for number in range(count)]
        pictures = np.stack([cut(frames[n], path[n], self.side) for n in nearest])
        return CroppedClip(
            pictures,
            borrowed=sum(box is None or n not in clean for n, box in enumerate(own)),
            centred=False,
            with_others=sum(map(bool, others)),
        )


def check_frames(frames: npt.NDArray[np.uint8]) -> None:
    """Check a clip of pictures before anything is done with it.

    Raises:
        ClipError: reason `bad-frames` or `empty`.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        kind = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ClipError("bad-frames", f"frames of {kind}", expected="uint8 [frames, height, width, 3]")
    if len(frames) == 0:
        raise ClipError("empty", "a clip without frames", expected="at least one")
    short, long = sorted(frames.shape[1:3])
    if short < MIN_FRAME_SIDE or long > MAX_FRAME_SIDE:
        raise ClipError(
            "bad-frames",
            f"frames of {frames.shape[2]} x {frames.shape[1]} pixels",
            expected=f"{MIN_FRAME_SIDE} to {MAX_FRAME_SIDE} on each side",
        )


def cut(frame: Frame, box: FaceBox, side: int) -> npt.NDArray[np.uint8]:
    """The square `box` of a frame at [side, side, 3]; what lies beyond the frame repeats its edge."""
    oversampling = max(1, round(box.size / side))
    fine = side * oversampling
    scale = box.size / fine
    left, top = box.x - box.size / 2, box.y - box.size / 2
    # Pixel k of the crop covers the frame from left + k * scale to left + (k + 1) * scale: hence the half pixels.
    inverse = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(frame, inverse, (fine, fine), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if oversampling > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, dtype=np.uint8)


def _centre(frame: Frame) -> FaceBox:
    height, width = frame.shape[:2]
    return FaceBox(width / 2, height / 2, float(min(height, width)))


def _filled(found: Sequence[FaceBox | None]) -> list[FaceBox]:
    """Frames without a box take the last one, those before the first box take the first. At least one is there."""
    last = next(box for box in found if box is not None)
    filled = []
    for box in found:
        last = box or last
        filled.append(last)
    return filled


def _smooth(path: Sequence[FaceBox]) -> list[FaceBox]:
    """One size for all, the median; centres averaged with their neighbours'."""
    size = float(np.median([box.size for box in path]))
    centres = np.pad([(box.x, box.y) for box in path], ((1, 1), (0, 0)), mode="edge")
    smooth = sum(weight * centres[k : k + len(path)] for k, weight in enumerate(_SMOOTHING))
    return [FaceBox(float(x), float(y), size) for x, y in np.asarray(smooth)]
