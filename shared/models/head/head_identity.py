"""A synthetic person's head, ready to be posed and drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from moretta.shared.models.head.asset import Floats, MeshPart, load_asset, vertex_sums
from moretta.shared.models.head.atlas import corner_places
from moretta.shared.models.head.hair import grow
from moretta.shared.models.head.paint import Texture, paint
from moretta.shared.models.head.traits import Traits, draw_traits


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
