"""98 points of a face: which of the face mesh's they are, where a drawn head has them, and drawn faces that show them.

Sun, Li, Qi and Lyu, "LandmarkGAN: Synthesizing Faces from Landmarks", Pattern Recognition Letters 161, 2022, have 98
points, those of the boundary last. So have these; pupils are not among them, because the face mesh has none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moretta.shared.core.array_types import Float32, Float64, UInt8
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import cut
from moretta.shared.models.head.expression import ACTIONS, action_weights, showing
from moretta.shared.models.head.render import FaceIdentity, Vector, View, draw, posed, screen_places, speaking

MESH_POINTS = (
    *(46, 52, 65, 55, 70, 63, 105, 107, 276, 282, 295, 285, 300, 293, 334, 336),  # brows
    *(168, 6, 195, 4, 1, 2, 98, 97, 326, 327),  # nose
    *(33, 163, 145, 154, 133, 157, 159, 161, 263, 390, 374, 381, 362, 384, 386, 388),  # eyes
    *(61, 91, 84, 17, 314, 321, 291, 269, 267, 0, 37, 39, 78, 178, 14, 402, 308, 310, 13, 81),  # lips
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),  # boundary
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""Numbers of these points among the 468 of `moretta.shared.features.landmarks`."""
VERTICES = (
    *(255, 224, 223, 208, 1578, 1857, 1856, 233, 4140, 2610, 2608, 2595, 3054, 3871, 4137, 2618),
    *(169, 2523, 1660, 3213, 3940, 2687, 601, 313, 2688, 2950),
    *(1090, 1093, 1095, 1072, 1129, 1100, 1056, 1058, 2419, 3395, 3398, 3401, 3407, 3404, 3385, 3416),
    *(527, 478, 486, 492, 2853, 2845, 2898, 4223, 2828, 467, 461, 1948, 418, 535, 523, 2892, 3859, 2875, 520, 515),
    *(251, 2632, 2622, 4108, 2654, 4263, 4274, 4295, 4582, 4586, 4628, 4120, 3208, 3207, 4172, 4171, 4169, 4168),
    *(1822, 1889, 1890, 1820, 1894, 1895, 894, 1838, 910, 2197, 2030, 2342, 871, 1991, 272, 1826, 239, 250),
)
"""Vertices of the head asset that lie nearest to the points of the face mesh, in 96 pictures of 16 drawn heads."""
COUNT = len(MESH_POINTS)
BOUNDARY = 62
"""The first point of the boundary."""
EYES = (26, 42)
"""The first point of each eye, of eight."""
_POSE = (0.16, 0.08, 0.05)  # yaw, pitch, roll in radians: standard deviations, as public faces have them
_FRAME = (320, 240)
_UNITS = 4.0
"""Side of a picture of normalized points, in units of these."""
_LIFT = 0.05
"""Share of a side by which the middle of the picture is above that of the points, so that hair is in it."""
_LIGHT: Vector = (0.25, 0.5, 1.0)
_STRONGEST = 1.1


class Showing(NamedTuple):
    """Expression and pose of any head in one picture."""

    weights: dict[str, float]
    """Weights of the head's shape targets, by name."""
    pose: Vector
    """Yaw, pitch, roll in radians."""


def random_showing(rng: np.random.Generator) -> Showing:
    """An emotion of any strength, or two random actions, with any mouth, lids and pose."""
    if rng.random() < 0.6:
        shown = showing(EMOTIONS[int(rng.integers(len(EMOTIONS)))], rng)
        weights = {name: float(rng.uniform(0.2, _STRONGEST)) * weight for name, weight in shown.items()}
    else:
        values = np.zeros(len(ACTIONS))
        values[rng.integers(len(ACTIONS), size=2)] = rng.uniform(0, 1, 2)
        weights = action_weights(values)
    blink = float(rng.uniform(0, 1)) if rng.random() < 0.15 else 0.0
    yaw, pitch, roll = (float(rng.normal(0, reach)) for reach in _POSE)
    return Showing(speaking(weights, float(rng.uniform(0, 0.42)), blink), (yaw, pitch, roll))


def true_points(head: FaceIdentity, shown: Showing, width: int, height: int) -> Float64:
    """[98, 2], in pixels of a frame of this size, right and down."""
    places = screen_places(posed(head, shown.weights, shown.pose), width, height)
    return np.asarray(places[list(VERTICES)], np.float64)


def normalized(points: Float32 | Float64) -> Float32:
    """Points [..., 98, 2] without place and size: their mean is 0, and so is the mean of their squared distance 1."""
    centred = points - points.mean(axis=-2, keepdims=True)
    size = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True).mean(axis=-2, keepdims=True))
    return np.asarray(centred / np.maximum(size, 1e-6), np.float32)


def box_of(points: Float64) -> FaceBox:
    """The square of a frame that shows a face with these points [98, 2] at the usual place and size."""
    middle = points.mean(axis=0)
    size = _UNITS * float(np.sqrt(np.square(points - middle).sum(axis=1).mean()))
    return FaceBox(float(middle[0]) + 0.5, float(middle[1]) + 0.5 - _LIFT * size, size)


def in_box(points: Float64, box: FaceBox, side: int) -> Float64:
    """Points [n, 2] of a frame in pixels of the picture that `cut` makes of the box."""
    corner = np.array([box.x, box.y]) - box.size / 2
    return np.asarray((points + 0.5 - corner) * side / box.size - 0.5)


def drawn_face(head: FaceIdentity, shown: Showing, side: int) -> tuple[UInt8, Float32]:
    """The framed picture [side, side, 3] of a head in even light, and its normalized points [98, 2]."""
    width, height = _FRAME
    view = View(shown.pose, _LIGHT)
    frame = draw(head, shown.weights, view, width=width, height=height, supersample=1, rng=None)
    points = true_points(head, shown, width, height)
    return cut(frame, box_of(points), side), normalized(points)


def landmark_distance(one: Float32, other: Float32) -> float:
    """Mean distance of normalized points [n, 98, 2] that belong together, in eye distances of the second."""
    left, right = (other[:, first : first + 8].mean(axis=1) for first in EYES)
    apart = np.linalg.norm(one - other, axis=2).mean(axis=1)
    return float((apart / np.maximum(np.linalg.norm(left - right, axis=1), 1e-6)).mean())
