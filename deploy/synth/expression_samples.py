"""Training samples cut from scenes: boxes as detectors give them, places as points are found, and poor cameras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from moretta.deploy.synth.expression_scenes import Scenes
from moretta.shared.features.face_track import PLACES, similarity
from moretta.shared.models.expression_nets import FACE_SIDE, POINT_SIDE

Picture = npt.NDArray[np.uint8]
EYES_APART = 0.616
"""Of an average skull, in decimetres."""
_TURN = 10.0  # degrees, standard deviation, by which boxes are turned against faces
_BOX = (1.75, 3.1)  # decimetres of a box's side
_LEFT_RIGHT = [1, 0, 2, 3, 4]  # the points of a mirrored face


def boxed(scenes: Scenes, row: int, rng: np.random.Generator) -> tuple[Picture, npt.NDArray[Any], float]:
    """A face in a detector's box.

    Returns:
        The picture [48, 48], the points [5, 2] in half sides from its middle, and pixels per decimetre.
    """
    points = scenes.points[row]
    scale = float(np.linalg.norm(points[0] - points[1])) / EYES_APART
    side = scale * rng.uniform(*_BOX)
    middle = points.mean(0) + rng.normal(0, 0.10, 2) * scale + np.array([0, -0.05]) * scale
    angle, shrunk = rng.normal(0, _TURN) * np.pi / 180, POINT_SIDE / side
    turn = shrunk * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = POINT_SIDE / 2
    matrix = np.hstack([turn, (np.array([half, half]) - turn @ middle)[:, None]])
    soft = cv2.GaussianBlur(scenes.pictures[row], (0, 0), max(0.3, 0.4 / shrunk))
    picture, found = _warped(soft, matrix, POINT_SIDE), points @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        found = found[_LEFT_RIGHT] * np.array([-1, 1]) + np.array([POINT_SIDE - 1, 0])
    return poorly_taken(picture, rng), (found - half) / half, float(scale * shrunk)


def aligned(scenes: Scenes, row: int, rng: np.random.Generator, *, mirror: bool = True) -> tuple[Picture, Any]:
    """A face where its points, found not quite exactly, put it: the picture [64, 64] and its values [channels]."""
    points = scenes.points[row]
    apart = np.linalg.norm(points[0] - points[1])
    found = points + rng.normal(0, 0.07, points.shape) * apart + rng.normal(0, 0.03, 2) * apart
    matrix = similarity(found, PLACES + rng.normal(0, 0.6, (1, 2)))
    scale = float(np.linalg.norm(matrix[:, 0]))
    source = scenes.pictures[row]
    if scale < 0.8:
        source = cv2.GaussianBlur(source, (0, 0), 0.35 / scale)
    picture, values = _warped(source, matrix, FACE_SIDE), scenes.values[row].copy()
    if mirror and rng.random() < 0.5:
        picture = picture[:, ::-1]
        values[-2] *= -1
    return poorly_taken(picture, rng), values


def poorly_taken(picture: Picture, rng: np.random.Generator) -> Picture:
    """A grey picture as a coarse, blurred, badly lit, noisy or compressed video may have it."""
    values: Any = picture.astype(np.float32)
    for chance, spoil in _SPOILERS:
        if rng.random() < chance:
            values = spoil(values, rng)
    values = values * np.exp(rng.normal(0, 0.2)) + rng.normal(0, 15)
    if rng.random() < 0.15:
        top, left = rng.integers(0, len(values), 2)
        high, wide = rng.integers(4, 16, 2)
        values[top : top + high, left : left + wide] = rng.uniform(0, 255)
    if rng.random() < 0.5:
        values = values + rng.normal(0, rng.uniform(0, 9), values.shape)
    taken: Picture = np.clip(values, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        taken = np.asarray(cv2.imdecode(cv2.imencode(".jpg", taken, quality)[1], cv2.IMREAD_GRAYSCALE), np.uint8)
    return taken


def _coarse(values: Any, rng: np.random.Generator) -> Any:
    height, width = values.shape
    share = rng.uniform(0.35, 1)
    few = (max(8, int(width * share)), max(8, int(height * share)))
    small = cv2.resize(values, few, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _blurred(values: Any, rng: np.random.Generator) -> Any:
    return cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.4))


def _shaded(values: Any, rng: np.random.Generator) -> Any:
    right, down = rng.normal(0, 0.35, 2)
    y, x = np.mgrid[-1 : 1 : values.shape[0] * 1j, -1 : 1 : values.shape[1] * 1j]
    return values * np.exp(right * x + down * y)


def _bent(values: Any, rng: np.random.Generator) -> Any:
    return 255 * (np.clip(values, 0, 255) / 255) ** np.exp(rng.normal(0, 0.35))


_SPOILERS: tuple[tuple[float, Callable[[Any, np.random.Generator], Any]], ...] = (
    (0.5, _coarse), (0.4, _blurred), (0.6, _shaded), (0.5, _bent)
)  # fmt: skip


def _warped(picture: Picture, matrix: npt.NDArray[Any], side: int) -> Picture:
    warped = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
