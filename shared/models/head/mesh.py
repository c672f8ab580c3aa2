"""The head asset, a CC0 mesh with shape targets (see HEAD-NOTICE.md), its unrolled skin, and a rasteriser for both.

One texture per identity is addressed by angle and height round the head's vertical axis, so that brows, lips and
hairline can be painted as plain functions of position. Below the skin lie strips for hair, eyes, teeth, tongue and the
mouth's inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from moretta.shared.core.array_types import Bool, Float32, Int64

Floats = NDArray[np.floating[Any]]
_SLACK = -1e-4
"""Weights this far below zero still count as inside, so that no pixel falls between neighbours."""


class Fragments(NamedTuple):
    """The visible piece of surface of every covered pixel."""

    pixel: NDArray[np.int32]
    """[N], row-major index."""
    triangle: NDArray[np.int32]
    """[N], seen there."""
    weights: Floats
    """[3, N], barycentric."""

    def mix(self, corners: Floats) -> Floats:
        """Interpolate values at the corners of all triangles, [F, 3, C], to the fragments, [N, C]."""
        own = corners[self.triangle]
        first, second, third = self.weights[..., None]
        # Written out: numpy reduces short axes slowly.
        return np.asarray(own[:, 0] * first + own[:, 1] * second + own[:, 2] * third)

    def spread(self, values: Floats, height: int, width: int) -> Floats:
        """The mixed values at the corners of all triangles, [F, 3], as a picture with 0 where nothing is seen."""
        flat = np.zeros(height * width, np.float32)
        flat[self.pixel] = self.mix(values[..., None])[:, 0]
        return flat.reshape(height, width)


def _nearest(pixel: NDArray[np.int32], distance: Floats, pixels: int) -> Int64:
    """Positions in `pixel` of the fragment nearest to the camera, one for each covered pixel."""
    near, far = (float(distance.min()), float(distance.max())) if len(distance) else (0.0, 1.0)
    # Sixteen bits sort by radix, and are finer than the mesh: less than a tenth of a millimetre.
    steps = ((far - distance) * (65535 / max(far - near, 1e-9))).astype(np.uint16)
    order = np.argsort(steps, kind="stable")
    seen = np.full(pixels, -1)
    seen[pixel[order]] = order
    return seen[seen >= 0]


def rasterise(corners: Floats, depth: Floats, shown: Bool, width: int, height: int) -> Fragments:
    """Find what each pixel sees, all triangles at once: meshes of faces have triangles of a few pixels.

    Every triangle lists the pixels of its bounding box; those inside it survive, and the nearest of each pixel wins.

    Args:
        corners: [F, 3, 2], screen positions in pixels, right and down; pixel centres have whole coordinates.
        depth: [F, 3], distance from the camera.
        width: pixels per row.
        height: rows.
    """
    x, y = corners[..., 0].T, corners[..., 1].T
    left = np.ceil(np.clip(x.min(0), 0, width)).astype(np.int32)
    right = np.floor(np.minimum(x.max(0), width - 1)).astype(np.int32)
    top = np.ceil(np.clip(y.min(0), 0, height)).astype(np.int32)
    bottom = np.floor(np.minimum(y.max(0), height - 1)).astype(np.int32)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    chosen = np.flatnonzero(shown & (right >= left) & (bottom >= top) & (np.abs(area) > 1e-9)).astype(np.int32)

    wide = (right - left + 1)[chosen]
    count = wide * (bottom - top + 1)[chosen]
    own = np.repeat(np.arange(len(chosen), dtype=np.int32), count)
    offset = np.arange(len(own), dtype=np.int32) - np.repeat(np.cumsum(count, dtype=np.int32) - count, count)
    # Exact for boxes below 2**20 pixels, and float division is much quicker than integer division.
    down = ((offset + np.float32(0.5)) / wide.astype(np.float32)[own]).astype(np.int32)
    across = offset - down * wide[own]
    column, line = left[chosen][own] + across, top[chosen][own] + down

    a, b, c = corners[chosen].transpose(1, 2, 0)
    ab, ac = (b - a) / area[chosen], (c - a) / area[chosen]
    # The second and third barycentric weight of each triangle as slope_x * x + slope_y * y + offset.
    planes = ((ac[1], -ac[0], a[1] * ac[0] - a[0] * ac[1]), (-ab[1], ab[0], a[0] * ab[1] - a[1] * ab[0]))
    second, third = (
        slopes[0][own] * column + slopes[1][own] * line + slopes[2][own]
        for slopes in ([term.astype(np.float32) for term in plane] for plane in planes)
    )
    first = 1 - second - third
    inside = np.flatnonzero(np.minimum(np.minimum(second, third), first) >= _SLACK)
    weights = np.stack([first[inside], second[inside], third[inside]])
    triangle, pixel = chosen[own[inside]], line[inside] * np.int32(width) + column[inside]
    distance = depth[triangle].T * weights
    visible = _nearest(pixel, distance[0] + distance[1] + distance[2], width * height)
    return Fragments(pixel[visible], triangle[visible], weights[:, visible])


class MeshPart(IntEnum):
    """The part of the head that a triangle is of."""

    SKIN = 0
    EYE = 1
    TEETH = 2
    TONGUE = 3
    HAIR = 4
    """Never in the asset: hair is made per identity."""


@dataclass(frozen=True, eq=False)
class HeadAsset:
    """The base mesh in decimetres: x to the subject's left, y up, z to the front."""

    rest: Float32
    """[V, 3]"""
    faces: NDArray[np.int32]
    """[F, 3]"""
    part: NDArray[np.int8]
    """[F], a `MeshPart`."""
    masks: dict[str, Float32]
    """[V], how much each vertex belongs to a region, 0 to 1."""
    targets: dict[str, int]
    """Rows of `shifts`, by name."""
    shifts: Float32
    """[T, V, 3], displacements at weight 1."""
    face_sums: sp.csr_matrix
    """[V, F], sums a value per triangle into its vertices."""
    neighbours: sp.csr_matrix
    """[V, V], mean over the neighbours of each vertex."""
    eye_rows: tuple[Int64, Int64]
    """Vertices of the left and the right eyeball."""

    def rows_of(self, part: MeshPart) -> Int64:
        """Vertices used by the triangles of `part`."""
        return np.unique(self.faces[self.part == part])

    def blend(self, weights: dict[str, float]) -> Float32:
        """Displacement of every vertex for the weighted sum of targets, [V, 3]."""
        if not weights:
            return np.zeros_like(self.rest)
        rows = [self.targets[name] for name in weights]
        amounts = np.fromiter(weights.values(), np.float32, len(weights))
        return np.asarray(np.tensordot(amounts, self.shifts[rows], 1), np.float32)


def vertex_sums(faces: NDArray[np.int32], vertices: int) -> sp.csr_matrix:
    """Matrix that sums a value per triangle into its three vertices, sparse [vertices, F]."""
    count = len(faces)
    ones = np.ones(3 * count, np.float32)
    return sp.csr_matrix((ones, (faces.T.ravel(), np.tile(np.arange(count), 3))), shape=(vertices, count))


@cache
def load_asset() -> HeadAsset:
    """Read the asset shipped with the package, once per process."""
    with files(__package__).joinpath("head.npz").open("rb") as file, np.load(file, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    rest, faces, part = arrays["rest"], arrays["faces"].astype(np.int32), arrays["part"]
    eyes = np.unique(faces[part == MeshPart.EYE])
    left = rest[eyes, 0] > 0
    start, end = faces.T.ravel(), faces[:, [1, 2, 0]].T.ravel()
    both = (np.concatenate([start, end]), np.concatenate([end, start]))
    links = sp.csr_matrix((np.ones(len(both[0]), np.float32), both), shape=(len(rest), len(rest)))
    links.data[:] = 1
    return HeadAsset(
        rest=rest,
        faces=faces,
        part=part,
        masks=dict(zip(arrays["mask_names"].tolist(), arrays["masks"].astype(np.float32) / 255, strict=True)),
        targets={name: row for row, name in enumerate(arrays["target_names"].tolist())},
        shifts=arrays["targets"].astype(np.float32),
        face_sums=vertex_sums(faces, len(rest)),
        neighbours=sp.diags(1 / np.maximum(np.asarray(links.sum(1)).ravel(), 1)).astype(np.float32) @ links,
        eye_rows=(eyes[left], eyes[~left]),
    )


WIDTH = 384
"""Texels round the head; twice as dense in front as on average."""
SKIN_ROWS = 384
STRIP_ROWS = 64
HEIGHT = SKIN_ROWS + STRIP_ROWS
AXIS_Z = 0.35
"""The cylinder's axis, in decimetres in front of the mesh's origin."""
LOW_Y, HIGH_Y = 4.95, 8.75
HAIR_COLUMNS = 160
"""Columns of the strip's hair; eyes, teeth, tongue and mouth follow, one square each."""
EYE_SQUARE, TEETH_SQUARE, TONGUE_SQUARE, MOUTH_SQUARE = (HAIR_COLUMNS + 56 * k for k in range(4))
SQUARE = 56
EYE_REACH = 1.15
"""The eye's square spans this many eyeball radii to each side of its middle."""


class SkinMap(NamedTuple):
    """The base mesh at each texel of the unrolled skin, [SKIN_ROWS, WIDTH]: positions, angle from the front, masks."""

    x: Floats
    y: Floats
    z: Floats
    theta: Floats
    lips: Floats
    eyelids: Floats
    ears: Floats
    covered: Bool
    """Whether there is skin at all."""


def column(theta: Floats) -> Floats:
    """Texture column of an angle in radians from the front, positive to the subject's left."""
    turn = theta / np.pi
    return np.asarray((WIDTH - 1) * (0.5 + 0.5 * turn * (2 - np.abs(turn))))


def row(y: Floats) -> Floats:
    """Texture row of a height in decimetres."""
    return (SKIN_ROWS - 1) * (HIGH_Y - y) / (HIGH_Y - LOW_Y)


def unrolled(points: Floats) -> tuple[Floats, Floats]:
    """Texture places (column, row) [F, 3, 2] of triangles' corners [F, 3, 3], and their distances from the axis."""
    theta = np.asarray(np.arctan2(points[..., 0], points[..., 2] - AXIS_Z))
    # A triangle across the back would smear over the whole texture: lay it on one side.
    theta = np.where((np.ptp(theta, axis=1) > np.pi)[:, None] & (theta < 0), np.pi, theta)
    places = np.stack([column(theta), row(points[..., 1])], axis=-1)
    return places, np.hypot(points[..., 0], points[..., 2] - AXIS_Z)


def is_mouth(asset: HeadAsset) -> Bool:
    """Triangles of the mouth's inside, [F]."""
    return np.asarray((asset.part == MeshPart.SKIN) & (asset.masks["inside-mouth"][asset.faces] > 0.5).all(1))


@cache
def corner_places() -> Floats:
    """Texture place (column, row) of each corner of each triangle of the asset, [F, 3, 2]."""
    asset = load_asset()
    points, middle = asset.rest[asset.faces], SKIN_ROWS + STRIP_ROWS / 2
    places = unrolled(points)[0]
    for eye in asset.eye_rows:
        own = np.isin(asset.faces, eye).all(1)
        radius = np.ptp(asset.rest[eye, 0]) / 2
        turned = (points[own, :, :2] - asset.rest[eye].mean(0)[:2]) * (1, -1) / radius / EYE_REACH
        places[own] = (EYE_SQUARE + SQUARE / 2, middle) + turned * (SQUARE / 2 - 1)
    teeth, tongue = asset.part == MeshPart.TEETH, asset.part == MeshPart.TONGUE
    for chosen, square in ((teeth, TEETH_SQUARE), (tongue, TONGUE_SQUARE), (is_mouth(asset), MOUTH_SQUARE)):
        places[chosen] = (square + SQUARE / 2, middle)
    return places.astype(np.float32)


@cache
def skin_map() -> SkinMap:
    """Unroll the base mesh's skin."""
    asset = load_asset()
    points = asset.rest[asset.faces]
    radius = np.hypot(points[..., 0], points[..., 2] - AXIS_Z)
    shown = (asset.part == MeshPart.SKIN) & ~is_mouth(asset)
    seen = rasterise(corner_places(), -radius, shown, WIDTH, SKIN_ROWS)
    x, z, lips, eyelids, ears = (
        seen.spread(values[asset.faces], SKIN_ROWS, WIDTH)
        for values in (asset.rest[:, 0], asset.rest[:, 2], *(asset.masks[name] for name in ("lips", "eyelids", "ears")))
    )
    covered = np.zeros(SKIN_ROWS * WIDTH, bool)
    covered[seen.pixel] = True
    turn = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    theta = np.sign(turn) * np.pi * (1 - np.sqrt(1 - np.abs(turn)))
    y = np.repeat(np.linspace(HIGH_Y, LOW_Y, SKIN_ROWS, dtype=np.float32)[:, None], WIDTH, axis=1)
    theta = np.repeat(theta[None], SKIN_ROWS, axis=0).astype(np.float32)
    return SkinMap(x, y, z, theta, lips, eyelids, ears, covered.reshape(SKIN_ROWS, WIDTH))
