"""Public people, drawn again and again while their faces move: the same person in many movements, poses and lights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moretta.shared.corpus.face_images import FIRST_PUBLIC_IDENTITY
from moretta.shared.corpus.head.channels import CHANNELS
from moretta.shared.corpus.head.identity import make_identity
from moretta.shared.corpus.head.moves import loosely, random_actions
from moretta.shared.corpus.head.portrait import Portrait
from moretta.shared.corpus.head.render import View, draw
from moretta.shared.features.faces import FaceCropper

_WIDTH, _HEIGHT = 160, 120  # pixels, as the synthetic corpus has them
_POSE = (0.16, 0.08, 0.05)  # yaw, pitch, roll in radians: standard deviations
_GAZE = (0.1, 0.06)

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MovingFaces:
    """Pictures of some people, an equal number of each one after the other.

    Attributes:
        pictures: [people, each, side, side, 3].
        values: of the channels, [people, each, channels].
    """

    pictures: Pictures
    values: Floats


def draw_moving_people(people: int, each: int, side: int, *, seed: int) -> MovingFaces:
    """Draw public people whom nobody else is, as a detector crops them."""
    cropper = FaceCropper(side)
    pictures = np.zeros((people, each, side, side, 3), np.uint8)
    values = np.zeros((people, each, len(CHANNELS)), np.float32)
    for number in range(people):
        rng = np.random.default_rng([seed, number, 0xFACE])
        person = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
        for shot in range(each):
            actions, gaze = random_actions(rng), rng.normal(size=2) * _GAZE
            yaw, pitch, roll = (float(angle) for angle in rng.normal(size=3) * _POSE)
            light = (float(rng.normal(0.1, 0.4)), float(rng.normal(0.5, 0.2)), 1.0)
            view = View((yaw, pitch, roll), light, (float(gaze[0]), float(gaze[1])))
            frame = draw(person, loosely(actions, rng), view, width=_WIDTH, height=_HEIGHT, supersample=1, rng=rng)
            pictures[number, shot], _ = cropper.crop(frame)
            values[number, shot] = [*actions, *gaze]
    return MovingFaces(pictures, values)


def draw_public_person(shots: int, side: int, *, seed: int) -> MovingFaces:
    """Draw the person whose face everybody wears, in as many random movements."""
    portrait, rng = Portrait(side), np.random.default_rng([seed, 0xFACE])
    values = np.array([[*random_actions(rng), *(rng.normal(size=2) * _GAZE)] for _ in range(shots)], np.float32)
    return MovingFaces(np.stack([portrait(row) for row in values])[None], values[None])
