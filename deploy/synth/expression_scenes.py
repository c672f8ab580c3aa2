"""Draws people who move their faces at random, with what they do beside each picture: what the networks learn from.

Movements are drawn channel by channel, not from the recipes of emotions, so the networks learn to read faces and not
to recognise the six expressions of the synthetic corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from moretta.shared.models.head.expression import CHANNELS, loosely, random_actions
from moretta.shared.models.head.mesh import load_asset
from moretta.shared.models.head.render import FaceIdentity, Vector, View, draw, make_identity, posed, screen_places

SIDE = 128
"""Height and width of a scene, in pixels."""
WIDTH, HEIGHT = 192, 144
_HALF = 68.0  # pixels of the frame from the scene's middle to its edge
_POSE = (0.18, 0.1, 0.07)
_GAZE = (0.2, 0.12)
_POINTS = 6
"""The five of `face_track.SKULL`, with both corners of the lips in place of their middle."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scenes:
    """Pictures of many people.

    Attributes:
        pictures: grey, uint8 [N, 128, 128].
        values: of each channel, [N, channels].
        points: of the skull, as if the face were at rest, in pixels (right, down), [N, 5, 2].
        people: seed of each picture's person, [N].
    """

    pictures: npt.NDArray[np.uint8]
    values: Floats
    points: Floats
    people: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pictures)


def draw_scenes(first: int, people: int, each: int, *, step: Callable[[], None] = lambda: None) -> Scenes:
    """Draw `each` pictures of every person with a seed from `first` on; `step` is called after every person."""
    count = people * each
    pictures = np.zeros((count, SIDE, SIDE), np.uint8)
    values, points = np.zeros((count, len(CHANNELS)), np.float32), np.zeros((count, _POINTS, 2), np.float32)
    for seed in range(first, first + people):
        rng, person = np.random.default_rng([seed, 77]), make_identity(seed)
        for row in range((seed - first) * each, (seed - first + 1) * each):
            pictures[row], values[row], points[row] = _scene(person, rng)
        step()
    five = np.stack([*points.transpose(1, 0, 2)[:3], (points[:, 3] + points[:, 4]) / 2, points[:, 5]], axis=1)
    return Scenes(pictures, values, five, np.repeat(np.arange(first, first + people), each))


def _scene(person: FaceIdentity, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    actions = random_actions(rng)
    weights = loosely(actions, rng)
    yaw, pitch, roll = (float(angle) for angle in rng.standard_normal(3) * _POSE)
    gaze = (float(_GAZE[0] * rng.standard_normal()), float(_GAZE[1] * rng.standard_normal()))
    light: Vector = (float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.1, 0.9)), 1.0)
    view = View((yaw, pitch, roll), light, gaze)
    frame = draw(person, weights, view, width=WIDTH, height=HEIGHT, supersample=1, rng=rng)
    places = _skull(person, view)
    middle = places[:5].mean(0) + rng.normal(0, 3, 2)
    scale = SIDE / (2 * _HALF)
    matrix = np.array([[scale, 0, SIDE / 2 - middle[0] * scale], [0, scale, SIDE / 2 - middle[1] * scale]])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    size = (SIDE, SIDE)
    picture = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return picture, np.array([*actions, *gaze], np.float32), places @ matrix[:, :2].T + matrix[:, 2]


def _skull(person: FaceIdentity, view: View) -> npt.NDArray[Any]:
    """Eyes, nose, corners of the lips and chin of the face at rest in this pose, [6, 2]."""
    places = screen_places(posed(person, {}, view.pose), WIDTH, HEIGHT)
    left, right = load_asset().eye_rows
    return np.stack([places[left].mean(0), places[right].mean(0), *places[list(_vertices())]])


@cache
def _vertices() -> tuple[int, int, int, int]:
    """Vertices at the nose's tip, the left and right corner of the lips, and the chin."""
    asset = load_asset()
    across, up, front = asset.rest.T
    lips = np.flatnonzero(asset.masks["lips"] > 0.5)
    nose = np.argmax(np.where(np.abs(across) < 0.1, front, -9))
    chin = np.argmin(3 * np.abs(across) + np.abs(up - 6.35) + np.abs(front - 1.3))
    return int(nose), int(lips[across[lips].argmax()]), int(lips[across[lips].argmin()]), int(chin)
