"""Training data of the networks that read expressions: drawn people, and samples as poor cameras take them.

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

from moretta.shared.core.array_types import Array, Float32, Float64, Int64, UInt8
from moretta.shared.features.face_track import PLACES, similarity
from moretta.shared.models.expression_nets import FACE_SIDE, POINT_SIDE
from moretta.shared.models.head.expression import ACTIONS, CHANNELS, channel_targets
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


@dataclass(frozen=True, slots=True)
class Scenes:
    """Pictures of many people.

    Attributes:
        pictures: grey, uint8 [N, 128, 128].
        values: of each channel, [N, channels].
        points: of the skull, as if the face were at rest, in pixels (right, down), [N, 5, 2].
        people: seed of each picture's person, [N].
    """

    pictures: UInt8
    values: Float32
    points: Float32
    people: Int64

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
    return Scenes(pictures, values, five_points(points), np.repeat(np.arange(first, first + people), each))


def five_points(six: Array) -> Array:
    """The five of `face_track.SKULL`, [..., 5, 2], of those that `skull_points` gives, [..., 6, 2]."""
    lips = (six[..., 3, :] + six[..., 4, :]) / 2
    return np.stack([*np.moveaxis(six, -2, 0)[:3], lips, six[..., 5, :]], axis=-2)


_NUISANCES = 3
"""Shape targets besides the channels' that move a little in every picture."""


def random_actions(rng: np.random.Generator) -> Float64:
    """Values of the actions, [actions]: some at rest, none that a face cannot do together with the others."""
    column = {name: number for number, name in enumerate(ACTIONS)}
    values = np.zeros(len(ACTIONS))
    if rng.random() >= 0.1:
        share = rng.choice([0.15, 0.3, 0.5])
        moved = rng.random(len(values)) < share
        values[moved] = rng.uniform(0, 1.1, moved.sum())
        if rng.random() < 0.5:
            values[column["jaw open"]] += rng.uniform(0, 0.45)
    closed, raised = column["lids closed"], column["lids raised"]
    _one_of(values, closed, raised, 1.0, rng)
    if rng.random() < 0.1:
        values[closed], values[raised] = rng.uniform(0.6, 1), 0
    _one_of(values, column["lip corners up"], column["lip corners down"], 0.7, rng)
    _one_of(values, column["lips pushed out"], column["lip corners apart"], 0.7, rng)
    return values


def loosely(actions: Float64, rng: np.random.Generator) -> dict[str, float]:
    """Weights of shape targets: no two people, and no two sides of a face, do the same in quite the same way."""
    weights: dict[str, float] = {}
    for value, targets in zip(actions, channel_targets(), strict=True):
        if value:
            shared = 1 + 0.12 * rng.standard_normal()
            for target, share in targets.items():
                own = max(shared + 0.15 * rng.standard_normal(), 0)
                weights[target] = weights.get(target, 0.0) + float(value) * share * own
    for target in rng.choice(_nuisances(), _NUISANCES):
        weights[str(target)] = weights.get(str(target), 0.0) + abs(0.08 * rng.standard_normal())
    return weights


def random_moment(rng: np.random.Generator) -> tuple[Float64, dict[str, float], View]:
    """Values of the actions, [actions], what they do to shape targets, and from where the face is seen."""
    actions = random_actions(rng)
    weights = loosely(actions, rng)
    yaw, pitch, roll = (float(angle) for angle in rng.standard_normal(3) * _POSE)
    gaze = (float(_GAZE[0] * rng.standard_normal()), float(_GAZE[1] * rng.standard_normal()))
    light: Vector = (float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.1, 0.9)), 1.0)
    return actions, weights, View((yaw, pitch, roll), light, gaze)


def _one_of(values: Array, first: int, second: int, chance: float, rng: np.random.Generator) -> None:
    """Mostly only one of two movements that work against each other."""
    if values[first] > 0 and values[second] > 0 and (chance == 1 or rng.random() < chance):
        values[rng.choice([first, second])] = 0


@cache
def _nuisances() -> tuple[str, ...]:
    left_out = ("tongue", "cheekPuff", "eyeLook")
    return tuple(t for t in load_asset().targets if t.startswith("face/") and not any(word in t for word in left_out))


def _scene(person: FaceIdentity, rng: np.random.Generator) -> tuple[UInt8, Float32, Float32]:
    actions, weights, view = random_moment(rng)
    frame = draw(person, weights, view, width=WIDTH, height=HEIGHT, supersample=1, rng=rng)
    places = skull_points(person, view, WIDTH, HEIGHT)
    middle = places[:5].mean(0) + rng.normal(0, 3, 2)
    scale = SIDE / (2 * _HALF)
    matrix = np.array([[scale, 0, SIDE / 2 - middle[0] * scale], [0, scale, SIDE / 2 - middle[1] * scale]])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    size = (SIDE, SIDE)
    picture = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return picture, np.array([*actions, *view.gaze], np.float32), places @ matrix[:, :2].T + matrix[:, 2]


def skull_points(person: FaceIdentity, view: View, width: int, height: int) -> Array:
    """Eyes, nose, corners of the lips and chin of the face at rest in this pose, in pixels of a frame, [6, 2]."""
    places = screen_places(posed(person, {}, view.pose), width, height)
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


Picture = UInt8
EYES_APART = 0.616
"""Distance of the eyes of an average skull, in decimetres."""
_TURN = 10.0  # degrees, standard deviation, by which boxes are turned against faces
_BOX = (1.75, 3.1)  # decimetres of a box's side
_LEFT_RIGHT = [1, 0, 2, 3, 4]  # the points of a mirrored face


def boxed(scenes: Scenes, row: int, rng: np.random.Generator) -> tuple[Picture, Array, float]:
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


def _warped(picture: Picture, matrix: Array, side: int) -> Picture:
    warped = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
