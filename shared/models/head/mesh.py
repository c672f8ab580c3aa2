"""The head asset, a mesh of head and shoulders with shape targets, all CC0 (see HEAD-NOTICE.md), and its unrolled skin.

One texture per identity is addressed by angle and height round the head's vertical axis, so that brows, lips and
hairline can be painted as plain functions of position. Below the skin lie strips for hair, eyes, teeth, tongue and the
mouth's inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from moretta.shared.models.head.raster import Floats, rasterise


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
    """The base mesh in decimetres: x to the subject's left, y up, z to the front.

    Attributes:
        rest: vertices of the base mesh, [V, 3].
        faces: triangles, [F, 3].
        part: `Part` of each triangle, [F].
        masks: how much each vertex belongs to a named region, 0 to 1, each [V].
        targets: row of each named target in `shifts`.
        shifts: displacement of every vertex at weight 1 of each target, [T, V, 3].
        face_sums: sums a value per triangle into its vertices, sparse [V, F].
        neighbours: mean over the neighbours of each vertex, sparse [V, V].
        eye_rows: vertices of the (left, right) eyeball.
    """

    rest: NDArray[np.float32]
    faces: NDArray[np.int32]
    part: NDArray[np.int8]
    masks: dict[str, NDArray[np.float32]]
    targets: dict[str, int]
    shifts: NDArray[np.float32]
    face_sums: sp.csr_matrix
    neighbours: sp.csr_matrix
    eye_rows: tuple[NDArray[np.int64], NDArray[np.int64]]

    def rows_of(self, part: MeshPart) -> NDArray[np.int64]:
        """Vertices used by the triangles of `part`."""
        return np.unique(self.faces[self.part == part])

    def blend(self, weights: dict[str, float]) -> NDArray[np.float32]:
        """Displacement of every vertex for the weighted sum of named targets, [V, 3]."""
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


def _neighbour_means(faces: NDArray[np.int32], vertices: int) -> sp.csr_matrix:
    start = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    end = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    both = (np.concatenate([start, end]), np.concatenate([end, start]))
    links = sp.csr_matrix((np.ones(len(both[0]), np.float32), both), shape=(vertices, vertices))
    links.data[:] = 1
    return sp.diags(1 / np.maximum(np.asarray(links.sum(1)).ravel(), 1)).astype(np.float32) @ links


@cache
def load_asset() -> HeadAsset:
    """Read the asset shipped with the package, once per process."""
    with files(__package__).joinpath("head.npz").open("rb") as file, np.load(file, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    rest, faces, part = arrays["rest"], arrays["faces"].astype(np.int32), arrays["part"]
    eyes = np.unique(faces[part == MeshPart.EYE])
    left = rest[eyes, 0] > 0
    return HeadAsset(
        rest=rest,
        faces=faces,
        part=part,
        masks=dict(zip(arrays["mask_names"].tolist(), arrays["masks"].astype(np.float32) / 255, strict=True)),
        targets={name: row for row, name in enumerate(arrays["target_names"].tolist())},
        shifts=arrays["targets"].astype(np.float32),
        face_sums=vertex_sums(faces, len(rest)),
        neighbours=_neighbour_means(faces, len(rest)),
        eye_rows=(eyes[left], eyes[~left]),
    )


WIDTH = 384
"""Texels round the head; twice as dense in front as on average."""
SKIN_ROWS = 384
STRIP_ROWS = 64
HEIGHT = SKIN_ROWS + STRIP_ROWS
AXIS_Z = 0.35
"""Where the cylinder's axis stands, in decimetres in front of the mesh's origin."""
LOW_Y, HIGH_Y = 4.95, 8.75
HAIR_COLUMNS = 160
"""Columns of the strip's hair; eyes, teeth, tongue and mouth follow, one square each."""
EYE_SQUARE, TEETH_SQUARE, TONGUE_SQUARE, MOUTH_SQUARE = (HAIR_COLUMNS + 56 * k for k in range(4))
SQUARE = 56
EYE_REACH = 1.15
"""The eye's square spans this many eyeball radii to each side of its middle."""


@dataclass(frozen=True, eq=False)
class SkinMap:
    """The base mesh at each texel of the unrolled skin, [SKIN_ROWS, WIDTH].

    `covered` says where there is skin at all; `x`, `y` and `z` are positions in the base mesh, `theta` the angle from
    the front, and the rest are the asset's masks.
    """

    x: Floats
    y: Floats
    z: Floats
    theta: Floats
    lips: Floats
    eyelids: Floats
    ears: Floats
    covered: NDArray[np.bool_]


def column(theta: Floats) -> Floats:
    """Texture column of an angle in radians from the front, positive to the subject's left."""
    turn = theta / np.pi
    return np.asarray((WIDTH - 1) * (0.5 + 0.5 * turn * (2 - np.abs(turn))))


def row(y: Floats) -> Floats:
    """Texture row of a height in decimetres."""
    return (SKIN_ROWS - 1) * (HIGH_Y - y) / (HIGH_Y - LOW_Y)


def angle(points: Floats) -> Floats:
    """Angle of points [..., 3] round the head's axis, in radians from the front."""
    return np.asarray(np.arctan2(points[..., 0], points[..., 2] - AXIS_Z))


def is_mouth(asset: HeadAsset) -> NDArray[np.bool_]:
    """Triangles of the mouth's inside, [F]."""
    return np.asarray((asset.part == MeshPart.SKIN) & (asset.masks["inside-mouth"][asset.faces] > 0.5).all(1))


@cache
def corner_places() -> Floats:
    """Texture place (column, row) of each corner of each triangle of the asset, [F, 3, 2]."""
    asset = load_asset()
    points = asset.rest[asset.faces]
    theta = angle(points)
    # A triangle across the back would smear over the whole texture: lay it on one side.
    theta = np.where((np.ptp(theta, axis=1) > np.pi)[:, None] & (theta < 0), np.pi, theta)
    places = np.stack([column(theta), row(points[..., 1])], axis=-1)
    middle = STRIP_ROWS / 2
    for eye in asset.eye_rows:
        own = np.isin(asset.faces, eye).all(1)
        centre = asset.rest[eye].mean(0)
        radius = np.ptp(asset.rest[eye, 0]) / 2
        turned = (points[own, :, :2] - centre[:2]) * (1, -1) / radius / EYE_REACH
        places[own] = (EYE_SQUARE + SQUARE / 2, SKIN_ROWS + middle) + turned * (SQUARE / 2 - 1)
    for part, square in ((MeshPart.TEETH, TEETH_SQUARE), (MeshPart.TONGUE, TONGUE_SQUARE)):
        places[asset.part == part] = (square + SQUARE / 2, SKIN_ROWS + middle)
    places[is_mouth(asset)] = (MOUTH_SQUARE + SQUARE / 2, SKIN_ROWS + middle)
    return places.astype(np.float32)


@cache
def skin_map() -> SkinMap:
    """Unroll the base mesh's skin."""
    asset = load_asset()
    shown = (asset.part == MeshPart.SKIN) & ~is_mouth(asset)
    points = asset.rest[asset.faces]
    radius = np.hypot(points[..., 0], points[..., 2] - AXIS_Z)
    seen = rasterise(corner_places(), -radius, shown, WIDTH, SKIN_ROWS)

    def spread(values: Floats) -> Floats:
        flat = np.zeros(SKIN_ROWS * WIDTH, np.float32)
        flat[seen.pixel] = seen.mix(values[asset.faces, None])[:, 0]
        return flat.reshape(SKIN_ROWS, WIDTH)

    covered = np.zeros(SKIN_ROWS * WIDTH, bool)
    covered[seen.pixel] = True
    turn = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    theta = np.sign(turn) * np.pi * (1 - np.sqrt(1 - np.abs(turn)))
    return SkinMap(
        x=spread(asset.rest[:, 0]),
        y=np.repeat(np.linspace(HIGH_Y, LOW_Y, SKIN_ROWS, dtype=np.float32)[:, None], WIDTH, axis=1),
        z=spread(asset.rest[:, 2]),
        theta=np.repeat(theta[None], SKIN_ROWS, axis=0).astype(np.float32),
        lips=spread(asset.masks["lips"]),
        eyelids=spread(asset.masks["eyelids"]),
        ears=spread(asset.masks["ears"]),
        covered=covered.reshape(SKIN_ROWS, WIDTH),
    )
