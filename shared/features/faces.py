"""Faces cut out of frames, all of one size, steady over a clip; and whose face it is where several are seen.

That is decided by place and size alone, never by looks. A clip is refused where it cannot be: the face of somebody who
only stood by must never be released.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import hypot

import cv2
import numpy as np

from moretta.shared.core.array_types import UInt8
from moretta.shared.core.errors import ClipError
from moretta.shared.features.face_detectors import FaceBox, FaceDetector, Frame, best_detector

MIN_FRAME_SIDE = 16
"""Smallest side of a picture in pixels: smaller ones show no face that could be anonymized."""
MAX_FRAME_SIDE = 8192
REACH, REACH_PER_GAP, MAX_REACH = 0.6, 0.2, 1.2
"""How far a face moves from one frame to the next, in its own sizes, and how much further in each that misses it."""
MAX_GROWTH = 1.8
"""Largest factor by which a face's box grows or shrinks between frames."""
SAME_FACE = 0.35
"""Two boxes of a frame whose centres are nearer than this, in sizes of the larger, are one face found twice."""
BRIEF_SHARE = 0.15
"""Share of a clip's frames: a detector's mistakes, and passers-by, last for less."""
RIVAL_SIZE, RIVAL_WEIGHT = 0.7, 0.4
"""How large another face is, or how much area over the clip it has, before it is unclear who of the two speaks."""
FACE_IN_BOX = 0.75
"""Share of a box's height and width that the face takes: the rest is margin."""
SHOWN_SHARE = 0.2
"""How much of another face may lie in a crop."""
MAX_DOUBT_FRAMES = 3
"""How long somebody who is not found may still be there."""
MAX_LOST_SHARE = 0.2
"""Largest share of a clip's frames in which the person is lost or covered while somebody else is there."""
_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True, slots=True)
class CroppedClip:
    """The faces of a clip and how they were found."""

    pictures: UInt8
    """[frames, side, side, 3], RGB."""
    borrowed: int
    """Frames without a usable face of their own: cut where the neighbouring frame had one, or replaced by it."""
    centred: bool
    """Whether no frame showed a face, so that all are centre crops."""
    with_others: int = 0
    """Frames in which somebody else's face was seen, too; it is in no crop."""


class FaceCropper:
    """Cuts faces out of frames. `detector`: what finds faces; the best one of this machine if not given."""

    def __init__(self, side: int, detector: FaceDetector | None = None) -> None:
        self.side = side
        self._detector = best_detector() if detector is None else detector

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return self._detector.name

    def crop(self, frame: Frame) -> tuple[UInt8, bool]:
        """The largest face of one frame [height, width, 3] of RGB, and whether one was found; if not, it is the centre.
        Errors: see `check_frames`."""
        check_frames(frame[None] if isinstance(frame, np.ndarray) else frame)
        boxes = self._detector.find_all(frame)
        return cut(frame, boxes[0] if boxes else _centre(frame), self.side), bool(boxes)

    def crop_clip(self, frames: UInt8) -> CroppedClip:
        """Cut the speaker's face out of each frame of a clip, [frames, height, width, 3] of RGB.

        The crops have one size, and their path is smoothed, so that the detector's jitter does not show in the video.
        Where somebody else's face would be in a crop, the nearest frame's takes its place; a ClipError `several-faces`
        where that is in too many frames. Other errors: see `check_frames`, `find_people`.
        """
        check_frames(frames)
        count, height, width = frames.shape[:3]
        people = find_people([self._detector.find_all(frame) for frame in frames], width=width, height=height)
        if people is None:
            pictures = np.stack([cut(frame, _centre(frame), self.side) for frame in frames])
            return CroppedClip(pictures, borrowed=0, centred=True)
        speaker, others = people
        path = _smooth(list(speaker.at(range(count)).values()))
        clean = [n for n in range(count) if n not in speaker.doubtful and not any(shows(path[n], b) for b in others[n])]
        hidden = count - len(clean)
        if hidden > MAX_LOST_SHARE * count:
            raise _refused(f"{hidden} of {count} frames in which another face is before or beside the speaker's")
        nearest = [min(clean, key=lambda n: abs(n - number)) for number in range(count)]
        return CroppedClip(
            np.stack([cut(frames[n], path[n], self.side) for n in nearest]),
            borrowed=sum(n not in speaker.boxes or n not in clean for n in range(count)),
            centred=False,
            with_others=sum(map(bool, others)),
        )


def check_frames(frames: UInt8) -> None:
    """Check a clip of pictures before anything is done with it; else a ClipError `bad-frames` or `empty`."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        kind = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ClipError("bad-frames", f"frames of {kind}", expected="uint8 [frames, height, width, 3]")
    if len(frames) == 0:
        raise ClipError("empty", "a clip without frames", expected="at least one")
    short, long = sorted(frames.shape[1:3])
    if short < MIN_FRAME_SIDE or long > MAX_FRAME_SIDE:
        found = f"frames of {frames.shape[2]} x {frames.shape[1]} pixels"
        raise ClipError("bad-frames", found, expected=f"{MIN_FRAME_SIDE} to {MAX_FRAME_SIDE} on each side")


def cut(frame: Frame, box: FaceBox, side: int) -> UInt8:
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


def shows(crop: FaceBox, other: FaceBox) -> bool:
    """Whether a crop shows a noticeable part of another face."""
    half, core = crop.size / 2, FACE_IN_BOX * other.size / 2
    across = min(crop.x + half, other.x + core) - max(crop.x - half, other.x - core)
    down = min(crop.y + half, other.y + core) - max(crop.y - half, other.y - core)
    return across > 0 and down > 0 and across * down > SHOWN_SHARE * (2 * core) ** 2


@dataclass(frozen=True, slots=True)
class Person:
    """One face over a clip."""

    boxes: dict[int, FaceBox] = field(default_factory=dict)
    """Box of each frame, in order."""
    doubtful: set[int] = field(default_factory=set)
    """Frames whose box may be somebody else's, who was as near and is not seen elsewhere."""

    def nearness(self, frame: int, box: FaceBox) -> float:
        """Distance of a box from where this face was, or was moving to, as a share of how far it can be; above 1 it is
        another."""
        last = next(reversed(self.boxes))
        old = self.boxes[last]
        before = self.boxes.get(last - 1)
        moved = old if before is None else FaceBox(2 * old.x - before.x, 2 * old.y - before.y, old.size)
        reach = min(MAX_REACH, REACH + REACH_PER_GAP * (frame - last - 1))
        growth = max(box.size, old.size) / max(1e-6, min(box.size, old.size))
        away = min(_distance(old, box), _distance(moved, box))
        return 2.0 if growth > MAX_GROWTH else away / (reach * (old.size + box.size) / 2)

    def at(self, frames: Iterable[int]) -> dict[int, FaceBox]:
        """Frames in which the face was not found take the box before; those before the first box take the first."""
        last = next(iter(self.boxes.values()))
        return {frame: (last := self.boxes.get(frame, last)) for frame in frames}

    def filled(self) -> dict[int, FaceBox]:
        """Boxes from the first frame in which it was found to the last."""
        return self.at(range(next(iter(self.boxes)), next(reversed(self.boxes)) + 1))


def find_people(
    found: Sequence[Sequence[FaceBox]], *, width: int, height: int
) -> tuple[Person, list[list[FaceBox]]] | None:
    """The speaker, and the faces of all others in each frame; None if no face was found in any frame.

    Args:
        width: of the frames, in pixels.
        height: of the frames, in pixels.

    Raises:
        ClipError: reason `several-faces`: another face is as large, or there where the speaker is lost.
    """
    people = _followed(found)
    if not people:
        return None
    # Area over the clip; at the edge of the picture it counts half.
    middle, furthest = FaceBox(width / 2, height / 2, 0.0), hypot(width, height) / 2
    weights = [
        sum(box.size**2 * (1 - 0.5 * min(1.0, _distance(box, middle) / furthest)) for box in person.boxes.values())
        for person in people
    ]
    first = int(np.argmax(weights))
    speaker, size = people[first], float(np.median([box.size for box in people[first].boxes.values()]))
    least = max(2.0, BRIEF_SHARE * len(found)) if len(found) > 3 else 1.0
    others: list[dict[int, FaceBox]] = []
    seen: set[int] = set()
    for person, weight in zip(people, weights, strict=True):
        if person is speaker:
            continue
        if len(person.boxes) < least:
            others.append(person.boxes)
            continue
        others.append(person.filled())
        seen |= others[-1].keys()
        large = float(np.quantile([box.size for box in person.boxes.values()], 0.9))
        if large > RIVAL_SIZE * size or weight > RIVAL_WEIGHT * weights[first]:
            raise _refused(f"two faces, one {large / size:.1f} times as large as the other")
    lost = len(seen - speaker.boxes.keys())
    if lost > MAX_LOST_SHARE * len(found):
        raise _refused(f"{lost} of {len(found)} frames that show another face and not the speaker's")
    return speaker, [[boxes[n] for boxes in others if n in boxes] for n in range(len(found))]


def _followed(found: Sequence[Sequence[FaceBox]]) -> list[Person]:
    """Boxes joined over the frames: each goes to the face that was nearest, and to a new one if none was near."""
    people: list[Person] = []
    for frame, boxes in enumerate(found):
        apart: list[FaceBox] = []  # without the second box of a face that was found twice: the first is kept
        for box in boxes:
            if all(_distance(box, other) > SAME_FACE * max(box.size, other.size) for other in apart):
                apart.append(box)
        pairs = sorted(
            (nearness, who, which)
            for who, person in enumerate(people)
            for which, box in enumerate(apart)
            if (nearness := person.nearness(frame, box)) <= 1
        )
        taken: set[int] = set()
        for _, who, which in pairs:
            if frame not in people[who].boxes and which not in taken:
                people[who].boxes[frame] = apart[which]
                taken.add(which)
        _doubt(people, pairs, frame)
        people += [Person({frame: box}) for which, box in enumerate(apart) if which not in taken]
    return people


def _doubt(people: Sequence[Person], pairs: Sequence[tuple[float, int, int]], frame: int) -> None:
    """Where two faces are near one box, and one of them has none, it is unclear whose it is."""

    def last(person: Person) -> int:
        return next((number for number in reversed(person.boxes) if number < frame), frame)

    for which in {which for _, _, which in pairs}:
        near = [people[who] for _, who, box in pairs if box == which and frame - MAX_DOUBT_FRAMES <= last(people[who])]
        if any(frame not in person.boxes and len(person.boxes) > 1 for person in near):
            for person in near:
                person.doubtful.add(frame)


@lru_cache(maxsize=4)
def cropper_of(side: int) -> FaceCropper:
    """One for a whole process: to make a detector takes longer than to find the faces of a clip."""
    return FaceCropper(side)


def _distance(one: FaceBox, other: FaceBox) -> float:
    return hypot(one.x - other.x, one.y - other.y)


def _refused(found: str) -> ClipError:
    return ClipError(
        "several-faces", found, expected="one face, or one that is clearly the largest", fix="cut the picture"
    )


def _centre(frame: Frame) -> FaceBox:
    height, width = frame.shape[:2]
    return FaceBox(width / 2, height / 2, float(min(height, width)))


def _smooth(path: Sequence[FaceBox]) -> list[FaceBox]:
    """One size for all, the median; centres averaged with their neighbours'."""
    size = float(np.median([box.size for box in path]))
    centres = np.pad([(box.x, box.y) for box in path], ((1, 1), (0, 0)), mode="edge")
    smooth = sum(weight * centres[k : k + len(path)] for k, weight in enumerate(_SMOOTHING))
    return [FaceBox(float(x), float(y), size) for x, y in np.asarray(smooth)]
