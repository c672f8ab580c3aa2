"""A synthetic person's head, how it is drawn (pose, light, camera), and clips of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from moretta.shared.core.array_types import Array, Float64, UInt8
from moretta.shared.models.head.expression import crease_depths, showing
from moretta.shared.models.head.hair import grow
from moretta.shared.models.head.mesh import (
    EYE_REACH,
    HEIGHT,
    SQUARE,
    WIDTH,
    Floats,
    Fragments,
    MeshPart,
    corner_places,
    load_asset,
    rasterise,
    vertex_sums,
)
from moretta.shared.models.head.paint import Texture, paint
from moretta.shared.models.head.traits import Traits, draw_traits

Vector = tuple[float, float, float]

CAMERA_DISTANCE = 12.0
"""Decimetres from the eyes."""
FOCAL_HEIGHTS = 3.55
"""Focal length in image heights: the head fills about two thirds of the frame, as in CREMA-D."""
AIM = (0.0, -0.22, -0.6)
"""The centre of the frame, from the point between the eyes, in decimetres."""
PIVOT = (0.0, 6.4, 0.4)
"""Where the head turns on the neck."""
EYE_GAIN = 0.9
"""How many eyeball radii the pupil moves per unit of the sine of the gaze angle."""
SENSOR_NOISE = 0.010
CREASE_GAIN = 22.0
"""How much a vertex darkens per decimetre that it lies below its neighbours' mean."""


@dataclass(frozen=True, eq=False)
class FaceIdentity:
    """One synthetic person; two made from the same seed, sex and age are the same. Lengths are in decimetres."""

    seed: int
    traits: Traits
    vertices: Floats = field(repr=False)
    """[V, 3], of head, shoulders and then hair at rest."""
    skin_count: int
    """How many of the vertices are the asset's."""
    faces: NDArray[np.int32] = field(repr=False)
    """[F, 3]"""
    part: NDArray[np.int8] = field(repr=False)
    """[F], a `MeshPart`."""
    places: Floats = field(repr=False)
    """[F, 3, 2], texture place (column, row) of each corner."""
    texture: Texture = field(repr=False)
    turn: Floats = field(repr=False)
    """[V], how much each vertex follows the head: 0 at the shoulders, 1 from the jaw up."""
    eye_middle: Floats = field(repr=False)
    """[3], the point between the eyes."""
    face_sums: sp.csr_matrix = field(repr=False)
    """[V, F], sums a value per triangle into its vertices."""

    @property
    def sex(self) -> str:
        """`female` or `male`."""
        return self.traits.sex

    @property
    def age(self) -> int:
        """Age in years."""
        return self.traits.age


def _smooth(rise: Array) -> Array:
    clipped = np.clip(rise, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped))


def _turn(heights: Floats) -> Floats:
    """Share of the head's rotation that a vertex at each height takes part in: the neck bends between 5.7 and 6.4."""
    return _smooth((heights - 5.7) / 0.7).astype(np.float32)


def make_identity(
    seed: int, *, sex: str | None = None, age: int | None = None, traits: Traits | None = None
) -> FaceIdentity:
    """Draw a person from a seed; `sex` (`female` or `male`) and `age` in years replace the drawn ones, `traits` all.
    Raises ValueError: `sex` is neither."""
    if sex not in (None, "female", "male"):
        raise ValueError(f"sex {sex!r}: expected 'female' or 'male'")
    asset = load_asset()
    traits = traits or draw_traits(seed, sex, age)
    eyes = np.concatenate(asset.eye_rows)
    head = asset.rest + asset.blend(traits.shape)
    # Bodies differ in height; what follows counts on eyes where the base mesh has them.
    head += asset.rest[eyes].mean(0) - head[eyes].mean(0)
    hair = grow(head, traits, seed)
    vertices = np.concatenate([head, hair.vertices])
    faces = np.concatenate([asset.faces, hair.faces + len(head)])
    return FaceIdentity(
        seed=seed,
        traits=traits,
        vertices=vertices,
        skin_count=len(head),
        faces=faces,
        part=np.concatenate([asset.part, np.full(len(hair.faces), MeshPart.HAIR, np.int8)]),
        places=np.concatenate([corner_places(), hair.places]),
        texture=paint(traits, seed),
        turn=np.concatenate([_turn(asset.rest[:, 1]), _turn(hair.vertices[:, 1] + 0.4)]),
        eye_middle=head[eyes].mean(0),
        face_sums=vertex_sums(faces, len(vertices)),
    )


class View(NamedTuple):
    """One frame's circumstances; angles in radians."""

    pose: Vector = (0.0, 0.0, 0.0)
    """Yaw to the subject's left, pitch down, roll."""
    light: Vector = (0.3, 0.5, 1.0)
    """Where it comes from: the subject's left, up, towards the camera."""
    gaze: tuple[float, float] = (0.0, 0.0)
    """Left, up, relative to the head."""


class Window(NamedTuple):
    """The part of a frame that is drawn, in pixels of the frame."""

    left: int
    top: int
    width: int
    height: int


def rotation(pose: Vector) -> Floats:
    """[3, 3] of (yaw, pitch, roll), see `View`."""
    (cy, cx, cr), (sy, sx, sr) = np.cos(pose), np.sin(pose)
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(roll @ pitch @ yaw, np.float32)


def posed(identity: FaceIdentity, weights: dict[str, float], pose: Vector) -> Floats:
    """Vertices of the posed head in the camera's frame, origin at the aim, [V, 3]."""
    points = identity.vertices.copy()
    points[: identity.skin_count] += load_asset().blend(weights)
    turned = (points - PIVOT) @ rotation(pose).T + PIVOT
    points += identity.turn[:, None] * (turned.astype(np.float32) - points)
    return points - (identity.eye_middle + np.array(AIM, np.float32))


def _normals(identity: FaceIdentity, points: Floats) -> Floats:
    corners = points[identity.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = identity.face_sums @ flat
    return np.asarray(normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12), np.float32)


def _hollows(identity: FaceIdentity, points: Floats, normals: Floats) -> Floats:
    """Shade of creases and of the mouth's depth, [V]: what lies below its neighbours sees less of the sky."""
    asset = load_asset()
    skin = points[: identity.skin_count]
    height = ((skin - asset.neighbours @ skin) * normals[: identity.skin_count]).sum(1)
    height = 0.5 * (height + asset.neighbours @ height)
    shade = np.ones(len(points), np.float32)
    shade[: identity.skin_count] = np.clip(1 + CREASE_GAIN * height, 0.7, 1.1) * _mouth_depth()
    return shade


@cache
def _mouth_depth() -> Floats:
    """Light left at each of the asset's vertices, [V]: less for teeth and tongue, the deeper the less."""
    asset = load_asset()
    left = np.ones(len(asset.rest), np.float32)
    inner = np.concatenate([asset.rows_of(MeshPart.TEETH), asset.rows_of(MeshPart.TONGUE)])
    left[inner] = np.clip((asset.rest[inner, 2] - 1.05) / 0.42, 0.12, 0.9)
    return left


def _lit(identity: FaceIdentity, points: Floats, light: Vector) -> Floats:
    """(diffuse, highlight) at each vertex, [V, 2]."""
    normals = _normals(identity, points)
    towards = np.asarray(light, np.float32) / np.linalg.norm(light)
    half = towards + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    facing = normals @ towards
    diffuse = 0.40 + 0.14 * normals[:, 1] + 0.56 * np.clip(0.85 * facing + 0.15, 0, 1)
    diffuse += 0.14 * np.clip(normals @ np.array([-0.7, 0.1, 0.7], np.float32), 0, 1)
    highlight = np.clip(normals @ half, 0, 1) ** 22
    return np.stack([diffuse * _hollows(identity, points, normals), highlight], axis=1).astype(np.float32)


def _sample(texture: Texture, places: Floats, depths: Floats) -> tuple[Floats, ...]:
    columns = np.clip(places[:, 0] + 0.5, 0, WIDTH - 1).astype(np.int32)
    rows = np.clip(places[:, 1] + 0.5, 0, HEIGHT - 1).astype(np.int32)
    flat = rows * WIDTH + columns
    colour = texture.colour.reshape(-1, 3)[flat]
    crease = texture.creases.reshape(-1, texture.creases.shape[-1])[flat] @ depths
    return colour * (1 - np.minimum(crease, 0.6))[:, None], texture.gloss.ravel()[flat]


@lru_cache(maxsize=4)
def _backdrop(wall: Vector, width: int, height: int) -> Floats:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    fall = 1.05 - 0.12 * y / height - 0.10 * np.abs(x / width - 0.45)
    return np.asarray(fall[..., None] * np.asarray(wall, np.float32))


def screen_places(points: Floats, width: int, height: int) -> Floats:
    """Where a frame of this size shows points [V, 3] of the camera's frame, in pixels (right, down), [V, 2]."""
    depth = CAMERA_DISTANCE - points[:, 2]
    focal = FOCAL_HEIGHTS * height
    return np.stack([width / 2 + focal * points[:, 0] / depth, height / 2 - focal * points[:, 1] / depth], axis=1)


def _fragments(identity: FaceIdentity, points: Floats, width: int, height: int, window: Window) -> Fragments:
    depth = CAMERA_DISTANCE - points[:, 2]
    screen = screen_places(points, width, height) - np.array(window[:2], np.float32)
    corners = screen[identity.faces]
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    facing = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0] < 0
    shown = facing | (identity.part == MeshPart.HAIR)
    return rasterise(corners, depth[identity.faces], shown, window.width, window.height)


def draw(
    identity: FaceIdentity,
    weights: dict[str, float],
    view: View,
    *,
    width: int,
    height: int,
    supersample: int,
    rng: np.random.Generator | None,
    window: Window | None = None,
) -> UInt8:
    """Draw one frame, or a window of it, from target weights; `rng` adds sensor noise. Returns RGB."""
    wide, high = width * supersample, height * supersample
    shown = Window(*(supersample * side for side in window or (0, 0, width, height)))
    points = posed(identity, weights, view.pose)
    seen = _fragments(identity, points, wide, high, shown)
    lit = _lit(identity, points, view.light)
    lit = seen.mix(lit[identity.faces])
    places = seen.mix(identity.places)
    eyes = identity.part[seen.triangle] == MeshPart.EYE
    reach = EYE_GAIN * (SQUARE / 2 - 1) / EYE_REACH
    places[eyes] += (-np.sin(view.gaze[0]) * reach, np.sin(view.gaze[1]) * reach)
    colour, gloss = _sample(identity.texture, places, np.array(crease_depths(weights), np.float32))
    left, top, across, down = shown
    wall = _backdrop(identity.traits.wall, wide, high)[top : top + down, left : left + across]
    flat = wall.reshape(-1, 3).copy()
    flat[seen.pixel] = colour * lit[:, :1] + (0.13 * gloss * lit[:, 1])[:, None]
    frame = flat.reshape(down, across, 3)
    if supersample > 1:
        frame = cv2.resize(frame, (across // supersample, down // supersample), interpolation=cv2.INTER_AREA)
    else:
        frame = cv2.GaussianBlur(frame, (3, 3), 0.5)
    if rng is not None:
        frame = frame + SENSOR_NOISE * rng.standard_normal(frame.shape, dtype=np.float32)
    return np.asarray(np.clip(frame * 255, 0, 255), np.uint8)


def speaking(weights: dict[str, float], jaw_open: float, blink: float) -> dict[str, float]:
    """Add speech and blinks to an expression."""
    mixed = dict(weights)
    mixed["face/jawOpen"] = mixed.get("face/jawOpen", 0.0) + jaw_open
    for side in ("Left", "Right"):
        name = f"face/eyeBlink{side}"
        mixed[name] = mixed.get(name, 0.0) + blink * (1 - mixed.get(name, 0.0))
    return {name: weight for name, weight in mixed.items() if weight}


def render_frame(
    identity: FaceIdentity,
    emotion: str,
    *,
    intensity: float = 1.0,
    jaw_open: float = 0.0,
    blink: float = 0.0,
    gaze: tuple[float, float] = (0.0, 0.0),
    pose: Vector = (0.0, 0.0, 0.0),
    light: Vector = (0.3, 0.5, 1.0),
    width: int = 160,
    height: int = 120,
    supersample: int = 1,
    rng: np.random.Generator | None = None,
) -> UInt8:
    """Draw a person showing an emotion: RGB, [height, width, 3].

    Args:
        intensity: 0 for a relaxed face, 1 for the full expression.
        jaw_open: 0 closed to 1 wide open, on top of the expression.
        blink: 0 eyes open to 1 closed.
        supersample: samples per pixel and axis.
        rng: varies the showing and adds sensor noise; None draws the plain recipe.
    """
    weights = {name: intensity * weight for name, weight in showing(emotion, rng).items()}
    mixed, view = speaking(weights, jaw_open, blink), View(pose, light, gaze)
    return draw(identity, mixed, view, width=width, height=height, supersample=supersample, rng=rng)


JAW_REACH = 0.42
"""How far the jaw opens at full loudness."""
ONSET_SECONDS = (0.15, 0.45)
BLINKS_PER_SECOND = 0.25
BLINK_SECONDS = 0.2
POSE_REACH = (0.16, 0.08, 0.05)
"""Standard deviation of a person's resting (yaw, pitch, roll) in a clip, in radians."""
SWAY = (0.045, 0.03, 0.02)
"""Amplitude in radians of slow head motion."""


def _strength(seconds: Float64, rng: np.random.Generator) -> Float64:
    """Strength of the expression over time: onset, apex, a slight fall at the end."""
    onset, start = rng.uniform(*ONSET_SECONDS), rng.uniform(0.35, 0.6)
    fall = rng.uniform(0.0, 0.2) * _smooth((seconds - seconds[-1] + 0.4) / 0.4)
    return np.asarray(start + (1 - start) * _smooth(seconds / onset) - fall)


def _blinks(seconds: Float64, rng: np.random.Generator) -> Float64:
    closed = np.zeros_like(seconds)
    for start in rng.uniform(0, seconds[-1] + 1e-9, rng.poisson(BLINKS_PER_SECOND * (seconds[-1] + 0.1))):
        closed = np.maximum(closed, 1 - np.abs(seconds - start) / (BLINK_SECONDS / 2))
    return np.clip(closed, 0, 1)


def render_clip(
    identity: FaceIdentity,
    emotion: str,
    loudness: NDArray[np.floating[Any]],
    *,
    fps: int,
    intensity: float = 1.0,
    seed: int,
    width: int = 160,
    height: int = 120,
) -> Iterator[UInt8]:
    """Yield one RGB frame [height, width, 3] for each value of `loudness`, which opens the jaw (0 to 1).

    Head pose, light, gaze, blinks and the exact showing of the emotion follow from `seed`.
    """
    if not len(loudness):
        return
    rng = np.random.default_rng([seed, 0xC11F])
    seconds = np.arange(len(loudness)) / fps
    strength, blinks = _strength(seconds, rng) * intensity, _blinks(seconds, rng)
    rest = rng.standard_normal(3) * POSE_REACH
    phase, pace = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.25, 0.7, 3)
    light = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.3, 0.8)), 1.0)
    gaze = (float(0.06 * rng.standard_normal() - 0.5 * rest[0]), float(0.05 * rng.standard_normal()))
    weights = showing(emotion, rng)
    for k, loud in enumerate(np.clip(loudness, 0, 1)):
        yaw, pitch, roll = rest + np.array(SWAY) * np.sin(phase + 2 * np.pi * pace * seconds[k])
        pitch += 0.02 * loud
        now = {name: float(strength[k]) * weight for name, weight in weights.items()}
        mixed = speaking(now, JAW_REACH * float(loud), float(blinks[k]))
        view = View((float(yaw), float(pitch), float(roll)), light, gaze)
        yield draw(identity, mixed, view, width=width, height=height, supersample=1, rng=rng)
