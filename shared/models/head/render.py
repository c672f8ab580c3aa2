"""A synthetic person's head, and how it is drawn: pose, light, camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from moretta.shared.models.head.expression import crease_depths, showing
from moretta.shared.models.head.hair import grow
from moretta.shared.models.head.mesh import (
    EYE_REACH,
    HEIGHT,
    SQUARE,
    WIDTH,
    MeshPart,
    corner_places,
    load_asset,
    vertex_sums,
)
from moretta.shared.models.head.paint import Texture, paint
from moretta.shared.models.head.raster import Floats, Fragments, rasterise
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
    """One synthetic person; two made from the same seed, sex and age are the same.

    Attributes:
        seed: what the person was drawn from.
        traits: the choices behind the arrays below.
        vertices: head, shoulders and then hair at rest, in decimetres, [V, 3].
        skin_count: how many of the vertices are the asset's.
        faces: triangles, [F, 3].
        part: `Part` of each triangle, [F].
        places: texture place (column, row) of each corner, [F, 3, 2].
        texture: the person's colours.
        turn: how much each vertex follows the head: 0 at the shoulders, 1 from the jaw up, [V].
        eye_middle: the point between the eyes, [3].
        face_sums: sums a value per triangle into its vertices, sparse [V, F].
    """

    seed: int
    traits: Traits
    vertices: Floats = field(repr=False)
    skin_count: int
    faces: NDArray[np.int32] = field(repr=False)
    part: NDArray[np.int8] = field(repr=False)
    places: Floats = field(repr=False)
    texture: Texture = field(repr=False)
    turn: Floats = field(repr=False)
    eye_middle: Floats = field(repr=False)
    face_sums: sp.csr_matrix = field(repr=False)

    @property
    def sex(self) -> str:
        """`female` or `male`."""
        return self.traits.sex

    @property
    def age(self) -> int:
        """Age in years."""
        return self.traits.age


def _turn(heights: Floats) -> Floats:
    """Share of the head's rotation that a vertex at each height takes part in: the neck bends between 5.7 and 6.4."""
    rise = np.clip((heights - 5.7) / 0.7, 0, 1)
    return np.asarray(rise * rise * (3 - 2 * rise), np.float32)


def make_identity(seed: int, *, sex: str | None = None, age: int | None = None) -> FaceIdentity:
    """Draw a person from a seed.

    Args:
        seed: not negative.
        sex: `female` or `male`, replacing the drawn one.
        age: in years, replacing the drawn one.

    Raises:
        ValueError: if `sex` is neither.
    """
    if sex not in (None, "female", "male"):
        raise ValueError(f"sex {sex!r}: expected 'female' or 'male'")
    asset = load_asset()
    traits = draw_traits(seed, sex, age)
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
    """One frame's circumstances; angles in radians.

    Attributes:
        pose: (yaw to the subject's left, pitch down, roll).
        light: direction the light comes from: (subject's left, up, towards the camera).
        gaze: (left, up) relative to the head.
    """

    pose: Vector = (0.0, 0.0, 0.0)
    light: Vector = (0.3, 0.5, 1.0)
    gaze: tuple[float, float] = (0.0, 0.0)


class Window(NamedTuple):
    """The part of a frame that is drawn, in pixels of the frame."""

    left: int
    top: int
    width: int
    height: int


def _rotation(pose: Vector) -> Floats:
    (cy, cx, cr), (sy, sx, sr) = np.cos(pose), np.sin(pose)
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(roll @ pitch @ yaw, np.float32)


def posed(identity: FaceIdentity, weights: dict[str, float], pose: Vector) -> Floats:
    """Vertices of the posed head in the camera's frame, origin at the aim, [V, 3]."""
    points = identity.vertices.copy()
    points[: identity.skin_count] += load_asset().blend(weights)
    turned = (points - PIVOT) @ _rotation(pose).T + PIVOT
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
) -> NDArray[np.uint8]:
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
) -> NDArray[np.uint8]:
    """Draw a person showing an emotion.

    Args:
        identity: who.
        emotion: what is shown.
        intensity: 0 for a relaxed face, 1 for the full expression.
        jaw_open: 0 closed to 1 wide open, on top of the expression.
        blink: 0 eyes open to 1 closed.
        gaze: direction of the eyes (left, up) in radians relative to the head.
        pose: (yaw, pitch, roll) of the head in radians.
        light: direction the light comes from: (subject's left, up, towards the camera).
        width: pixels.
        height: pixels.
        supersample: samples per pixel and axis.
        rng: varies the showing and adds sensor noise; None draws the plain recipe.

    Returns:
        RGB image, [height, width, 3], 0 to 255.
    """
    weights = {name: intensity * weight for name, weight in showing(emotion, rng).items()}
    mixed = speaking(weights, jaw_open, blink)
    return draw(identity, mixed, View(pose, light, gaze), width=width, height=height, supersample=supersample, rng=rng)
