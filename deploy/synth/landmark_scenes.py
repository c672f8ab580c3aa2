"""Training data of the network of dense landmarks: drawn people, whose points are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from moretta.deploy.synth.expression_scenes import five_points, poorly_taken, random_moment, skull_points
from moretta.shared.core.array_types import Array, Float32, UInt8
from moretta.shared.core.workers import map_files
from moretta.shared.features.face_track import SKULL, aligned, similarity
from moretta.shared.models.expression_nets import standardised
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.render import draw
from moretta.shared.models.head_model import mirrored_points, true_points
from moretta.shared.models.landmark_net import EYES, PIXELS_PER_DECIMETRE, SIDE

WIDTH, HEIGHT = 320, 240
EACH = 6
"""Pictures of a person."""
MISALIGNED, SHIFTED = 0.05, 0.03
"""Standard deviation of the error of one of the five points, and of all of them, in distances of the eyes."""


@dataclass(frozen=True, slots=True)
class LandmarkScenes:
    """Pictures of many people, `EACH` of one after the other.

    Attributes:
        pictures: grey, uint8 [N, 240, 240], the middle of each frame.
        places: of the model's points in pixels (right, down), float32 [N, points, 2].
        skull: the five points by which faces are aligned, float32 [N, 5, 2].
        values: of each channel, float32 [N, channels].
    """

    pictures: UInt8
    places: Float32
    skull: Float32
    values: Float32


def draw_scenes(first: int, people: int, each: int = EACH, *, workers: int | None = 1) -> LandmarkScenes:
    """Draw `each` pictures of every person with a seed from `first` on."""
    jobs = [(seed, each) for seed in range(first, first + people)]
    drawn = [part for person in map_files(_person, jobs, workers=workers) for part in person]
    pictures, *rest = zip(*drawn, strict=True)
    return LandmarkScenes(np.stack(pictures), *(np.stack(part).astype(np.float32) for part in rest))


def batch(scenes: LandmarkScenes, rows: Array, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops [N, 1, 112, 112] for the network, and their points [N, points, 2] in decimetres from between the eyes."""
    samples = [sample(scenes, int(row), rng) for row in rows]
    pictures, places = zip(*samples, strict=True)
    return standardised(np.stack(pictures)), torch.from_numpy(np.stack(places).astype(np.float32))


def _person(job: tuple[int, int]) -> list[tuple[Array, ...]]:
    seed, each = job
    rng, person = np.random.default_rng([seed, 78]), make_identity(seed)
    drawn: list[tuple[Array, ...]] = []
    left = (WIDTH - HEIGHT) // 2
    for _ in range(each):
        actions, weights, view = random_moment(rng)
        frame = draw(person, weights, view, width=WIDTH, height=HEIGHT, supersample=1, rng=rng)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, left : left + HEIGHT]
        places = true_points(person, weights, view, WIDTH, HEIGHT) - [left, 0]
        skull = five_points(skull_points(person, view, WIDTH, HEIGHT)) - [left, 0]
        drawn.append((grey, places, skull, np.array([*actions, *view.gaze])))
    return drawn


def misaligned(scenes: LandmarkScenes, row: int, rng: np.random.Generator, wider: float = 1.0) -> Array:
    """The matrix [2, 3] that lays a face where all faces are, by points that were found not quite exactly."""
    skull = scenes.skull[row].astype(np.float64)
    aside = rng.normal(0, MISALIGNED, skull.shape) + rng.normal(0, SHIFTED, 2)
    found = skull + wider * np.linalg.norm(skull[0] - skull[1]) * aside
    return similarity(found, PIXELS_PER_DECIMETRE * SKULL + EYES)


def in_face(places: Array, matrix: Array) -> Array:
    """Points of a picture, [n, 2], in decimetres of the aligned face."""
    return np.asarray((places @ matrix[:, :2].T + matrix[:, 2] - EYES) / PIXELS_PER_DECIMETRE)


def sample(scenes: LandmarkScenes, row: int, rng: np.random.Generator, *, spoilt: bool = True) -> tuple[UInt8, Array]:
    """An aligned face [112, 112], found not quite exactly, and its points in decimetres."""
    matrix = misaligned(scenes, row, rng)
    picture = aligned(scenes.pictures[row], matrix, SIDE)
    places = in_face(scenes.places[row], matrix)
    if rng.random() < 0.5:
        picture, places = picture[:, ::-1], places[mirrored_points()] * [-1, 1]
    if not spoilt:
        return picture, places
    if rng.random() < 0.3:
        top, start = rng.integers(0, SIDE - 10, 2)
        high, wide = rng.integers(8, 45, 2)
        picture = picture.copy()
        picture[top : top + high, start : start + wide] = rng.integers(0, 256)
    return poorly_taken(picture, rng), places
