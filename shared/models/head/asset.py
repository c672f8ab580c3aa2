"""The head asset: a base mesh of head and shoulders with its shape targets, all CC0 (see HEAD-NOTICE.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class MeshPart(IntEnum):
    """What a triangle belongs to."""

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
