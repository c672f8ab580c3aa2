"""Whose face is cut out of a clip in which several are seen. It is told by place and size alone, never by looks.

A clip is refused where that cannot be told: the face of somebody who only stood by must never be released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot

import numpy as np

from moretta.shared.core.errors import ClipError
from moretta.shared.features.face_detectors import FaceBox

REACH, REACH_PER_GAP, MAX_REACH = 0.6, 0.2, 1.2
"""How far a face moves from one frame to the next, in its own sizes, and how much further in each that misses it."""
MAX_GROWTH = 1.8
"""How much larger or smaller it becomes."""
SAME_FACE = 0.35
"""Two boxes of a frame whose centres are nearer than this, in sizes of the larger, are one face found twice."""
BRIEF_SHARE = 0.15
"""Of a clip's frames: a detector's mistakes, and passers-by, last for less."""
RIVAL_SIZE, RIVAL_WEIGHT = 0.7, 0.4
"""How large another face is, or how much area over the clip it has, before nobody can tell who of the two speaks."""
FACE_IN_BOX = 0.75
"""Of a box's height and width: the rest is margin around the face."""
SHOWN_SHARE = 0.2
"""How much of another face may lie in a crop."""
MAX_DOUBT_FRAMES = 3
"""How long somebody who is not found may still be there."""
MAX_LOST_SHARE = 0.2
"""Of a clip's frames: those in which the person is lost while somebody else is there, or covered by somebody else."""


@dataclass(frozen=True, slots=True)
class Person:
    """One face over a clip."""

    boxes: dict[int, FaceBox] = field(default_factory=dict)
    """By frame, in order."""
    doubtful: set[int] = field(default_factory=set)
    """Frames whose box may be somebody else's, who was as near and is not seen elsewhere."""

    def nearness(self, frame: int, box: FaceBox) -> float:
        """How far a box is from where this face was, or was moving to, as a share of how far it can be; above 1 it is
        another."""
        last = next(reversed(self.boxes))
        old = self.boxes[last]
        before = self.boxes.get(last - 1)
        moved = old if before is None else FaceBox(2 * old.x - before.x, 2 * old.y - before.y, old.size)
        reach = min(MAX_REACH, REACH + REACH_PER_GAP * (frame - last - 1))
        growth = max(box.size, old.size) / max(1e-6, min(box.size, old.size))
        away = min(distance(old, box), distance(moved, box))
        return 2.0 if growth > MAX_GROWTH else away / (reach * (old.size + box.size) / 2)

    def filled(self) -> dict[int, FaceBox]:
        """Frames between the first and the last in which the face was not found take the box before."""
        frames = range(next(iter(self.boxes)), next(reversed(self.boxes)) + 1)
        last = self.boxes[frames[0]]
        return {frame: (last := self.boxes.get(frame, last)) for frame in frames}

    @property
    def size(self) -> float:
        """The median of the boxes."""
        return float(np.median([box.size for box in self.boxes.values()]))


@dataclass(frozen=True, slots=True)
class People:
    """Who is in a clip."""

    speaker: Person
    others: list[Person]
    """Who is there for more than a moment."""
    brief: list[Person]

    def others_at(self, frame: int) -> list[FaceBox]:
        """The faces of everybody else."""
        lasting = [boxes[frame] for person in self.others if frame in (boxes := person.filled())]
        return lasting + [person.boxes[frame] for person in self.brief if frame in person.boxes]


def find_people(found: Sequence[Sequence[FaceBox]], *, width: int, height: int) -> People | None:
    """Tell the speaker from everybody else.

    Args:
        found: the faces of each frame.
        width: of the frames, in pixels.
        height: of the frames, in pixels.

    Returns:
        None if no face was found in any frame.

    Raises:
        ClipError: reason `several-faces`: another face is as large, or there where the speaker is lost.
    """
    people = _followed(found)
    if not people:
        return None
    weights = [_weight(person, width, height) for person in people]
    first = int(np.argmax(weights))
    speaker = people[first]
    least = max(2.0, BRIEF_SHARE * len(found)) if len(found) > 3 else 1.0
    others, brief = [], []
    for number, person in enumerate(people):
        if number == first:
            continue
        if len(person.boxes) < least:
            brief.append(person)
            continue
        others.append(person)
        large = float(np.quantile([box.size for box in person.boxes.values()], 0.9))
        if large > RIVAL_SIZE * speaker.size or weights[number] > RIVAL_WEIGHT * weights[first]:
            raise _refused(f"two faces, one {large / speaker.size:.1f} times as large as the other")
    seen = set().union(*(person.filled() for person in others)) if others else set()
    lost = len(seen - speaker.boxes.keys())
    if lost > MAX_LOST_SHARE * len(found):
        raise _refused(f"{lost} of {len(found)} frames that show another face and not the speaker's")
    return People(speaker, others, brief)


def shows(crop: FaceBox, other: FaceBox) -> bool:
    """Whether a crop shows a noticeable part of another face."""
    half, core = crop.size / 2, FACE_IN_BOX * other.size / 2
    across = min(crop.x + half, other.x + core) - max(crop.x - half, other.x - core)
    down = min(crop.y + half, other.y + core) - max(crop.y - half, other.y - core)
    return across > 0 and down > 0 and across * down > SHOWN_SHARE * (2 * core) ** 2


def check_shown(hidden: int, frames: int) -> None:
    """Check that the speaker's place in the picture is mostly the speaker's own.

    Raises:
        ClipError: reason `several-faces`.
    """
    if hidden > MAX_LOST_SHARE * frames:
        raise _refused(f"{hidden} of {frames} frames in which another face is before or beside the speaker's")


def distance(one: FaceBox, other: FaceBox) -> float:
    """Between the centres of two boxes, in pixels."""
    return hypot(one.x - other.x, one.y - other.y)


def _followed(found: Sequence[Sequence[FaceBox]]) -> list[Person]:
    """Boxes joined over the frames: each goes to the face that was nearest, and to a new one if none was near."""
    people: list[Person] = []
    for frame, boxes in enumerate(found):
        apart = _apart(boxes)
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
    """Where two faces are near one box, and one of them has none, nobody knows whose it is."""
    for which in {which for _, _, which in pairs}:
        near = [who for _, who, box in pairs if box == which and frame - MAX_DOUBT_FRAMES <= _last(people[who], frame)]
        if any(frame not in people[who].boxes and len(people[who].boxes) > 1 for who in near):
            for who in near:
                people[who].doubtful.add(frame)


def _last(person: Person, frame: int) -> int:
    """The last frame before this one in which a face was found."""
    return next((number for number in reversed(person.boxes) if number < frame), frame)


def _apart(boxes: Sequence[FaceBox]) -> list[FaceBox]:
    """Without the second box of a face that was found twice: the detector's first is kept."""
    kept: list[FaceBox] = []
    for box in boxes:
        if all(distance(box, other) > SAME_FACE * max(box.size, other.size) for other in kept):
            kept.append(box)
    return kept


def _weight(person: Person, width: int, height: int) -> float:
    """Area over the clip; at the edge of the picture it counts half."""
    middle, furthest = FaceBox(width / 2, height / 2, 0.0), hypot(width, height) / 2
    return sum(box.size**2 * (1 - 0.5 * min(1.0, distance(box, middle) / furthest)) for box in person.boxes.values())


def _refused(found: str) -> ClipError:
    return ClipError(
        "several-faces", found, expected="one face, or one that is clearly the largest", fix="cut the picture"
    )
