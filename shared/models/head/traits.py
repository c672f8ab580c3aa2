"""Seeded choices that shape and colour a synthetic head."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from zlib import crc32

import numpy as np

from moretta.shared.models.head.mesh import load_asset

Colour = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""

YOUNGEST, OLDEST = 20, 74
"""The ages of CREMA-D's actors (Cao et al. 2014, section 3)."""
_MESH_YOUNG, _MESH_OLD = 25, 90
SHAPE_SPREAD = 0.48
"""Standard deviation of the weight of each pair of shape targets."""
_FOLDER_SPREAD = {
    "head": 0.45, "ears": 0.6, "neck": 0.25, "mouth": 0.65, "nose": 0.85, "forehead": 0.6, "eyebrows": 0.5
}  # fmt: skip
_RESTING_LOOK = {"mouth/mouth-angles": 0.3, "mouth/mouth-trans": 0.6, "eyebrows/eyebrows-angle": 0.5}
"""Spread of shapes that would make a relaxed face look glad, sad or angry."""
_GROWING = {"incr", "up", "out", "forward", "convex", "uncompress", "round"}
_SHRINKING = {"decr", "down", "in", "backward", "concave", "compress"}
_LEFT_OUT = ("neck-scale-vert", "neck-height", "neck-trans", "head-trans", "head-age")
"""Shape targets that move the camera's aim rather than the look, and the one that age already drives."""

SKIN_TONES: tuple[Colour, ...] = (
    (0.94, 0.78, 0.69),
    (0.87, 0.68, 0.56),
    (0.74, 0.55, 0.42),
    (0.56, 0.39, 0.29),
    (0.40, 0.27, 0.20),
)
_BIAS = {
    "female": {"eyes/eye-scale": 0.4, "nose/nose-volume": -0.2, "cheek/cheek-inner": 0.2},
    "male": {"eyes/eye-scale": 0.25},
}
"""Added to shape weights: the base mesh has small eyes."""

HAIR_COLOURS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.055), (0.17, 0.11, 0.08), (0.30, 0.19, 0.12), (0.45, 0.24, 0.13), (0.66, 0.52, 0.33)
)  # fmt: skip
GREY: Colour = (0.62, 0.61, 0.60)
IRIS_COLOURS: tuple[Colour, ...] = ((0.22, 0.13, 0.07), (0.24, 0.38, 0.52), (0.28, 0.38, 0.22))
CLOTHES: tuple[Colour, ...] = (
    (0.16, 0.18, 0.24), (0.42, 0.13, 0.14), (0.75, 0.75, 0.73),
    (0.20, 0.33, 0.29), (0.31, 0.36, 0.50), (0.09, 0.09, 0.10),
)  # fmt: skip


class HairStyle(StrEnum):
    """The hair styles; `shaved` and `balding` are painted only, the others also have a shell of their own."""

    SHAVED = "shaved"
    BALDING = "balding"
    BUZZ = "buzz"
    SHORT = "short"
    QUIFF = "quiff"
    SIDE_PART = "side part"
    AFRO = "afro"
    TIED = "tied"
    BOB = "bob"
    LONG = "long"
    FRINGE = "fringe"


_STYLES: dict[str, dict[HairStyle, float]] = {
    "male": {
        HairStyle.SHAVED: 1, HairStyle.BALDING: 1, HairStyle.BUZZ: 2, HairStyle.SHORT: 4, HairStyle.QUIFF: 2,
        HairStyle.SIDE_PART: 3, HairStyle.AFRO: 1, HairStyle.LONG: 0.5,
    },
    "female": {
        HairStyle.SHORT: 1, HairStyle.SIDE_PART: 1, HairStyle.AFRO: 1, HairStyle.TIED: 3, HairStyle.BOB: 3,
        HairStyle.LONG: 4, HairStyle.FRINGE: 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """Seeded choices of one person."""

    sex: str
    age: int
    shape: dict[str, float]
    """Weights of the asset's identity targets."""
    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    lip_tint: float
    """How much the lips differ from the skin, 0 to 1."""
    brow: tuple[float, float, float]
    """Half thickness, height above the usual in decimetres, opacity."""
    beard: float
    """Opacity, 0 for none."""
    beard_full: bool
    """False for stubble on lip and chin only."""
    style: HairStyle
    hairline: float
    """Decimetres above the usual."""
    neckline: float
    """Lowest bare point of the neck, in decimetres above the mesh's origin."""
    lines: float
    """Depth of wrinkles, 0 to 1, growing with age."""
    wall: Colour
    """Behind the person."""


def _mix(colours: tuple[Colour, ...], place: float) -> Colour:
    """Colour at `place`, 0 to 1, along a list."""
    knots = np.linspace(0, 1, len(colours))
    red, green, blue = (float(np.interp(place, knots, [c[k] for c in colours])) for k in range(3))
    return red, green, blue


@cache
def _shape_pairs() -> tuple[tuple[str, str, float, int], ...]:
    """Every usable shape target: (target, name shared by both directions and sides, spread, sign)."""
    pairs = []
    for target in load_asset().targets:
        kind, _, rest = target.partition("/")
        if kind != "id" or any(word in target for word in _LEFT_OUT):
            continue
        folder, name = rest.split("/")
        stem, _, end = name.removeprefix("l-").removeprefix("r-").rpartition("-")
        sign = 1 if end in _GROWING else -1 if end in _SHRINKING else 0
        if sign:
            shared = f"{folder}/{stem}"
            pairs.append((target, shared, _RESTING_LOOK.get(shared, _FOLDER_SPREAD.get(folder, 1.0)), sign))
    return tuple(pairs)


def _shape(seed: int, rng: np.random.Generator, sex: str, age: int, origin: np.ndarray) -> dict[str, float]:
    old = float(np.clip((age - _MESH_YOUNG) / (_MESH_OLD - _MESH_YOUNG), 0, 1))
    shape = {}
    for name, share in zip(("african", "asian", "caucasian"), origin, strict=True):
        shape[f"macro/{name}-{sex}-young"] = float(share) * (1 - old)
        shape[f"macro/{name}-{sex}-old"] = float(share) * old
    weight = rng.uniform(-1, 1)
    shape[f"macro/{sex}-{'maxweight' if weight > 0 else 'minweight'}"] = abs(weight)
    drawn: dict[str, float] = {}
    for target, shared, spread, sign in _shape_pairs():
        if shared not in drawn:
            # Keyed by name, so that a target added to the asset does not reshape everybody.
            drawn[shared] = np.random.default_rng([seed, crc32(shared.encode())]).normal() * SHAPE_SPREAD
        amount = sign * (drawn[shared] + _BIAS[sex].get(shared, 0.0))
        if amount > 0:
            shape[target] = min(amount, 1.0) * spread
    return shape


def draw_traits(seed: int, sex: str | None, age: int | None) -> Traits:
    """Draw a person; the same seed gives the same person, and `sex` or `age` replace only what they name."""
    rng = np.random.default_rng([seed, 0x4EAD])
    drawn_sex = "female" if rng.random() < 0.5 else "male"
    drawn_age = int(YOUNGEST + (OLDEST - YOUNGEST) * rng.beta(1.1, 2.2))
    sex, age = sex or drawn_sex, drawn_age if age is None else age
    origin = rng.dirichlet([0.35, 0.35, 0.6])  # shares of the mesh's three; most people lean clearly to one
    african, asian, caucasian = (float(share) for share in origin)
    dark = float(np.clip(african * 0.85 + asian * 0.28 + caucasian * 0.12 + rng.normal() * 0.09, 0, 1))
    skin = _mix(SKIN_TONES, dark)
    fair = rng.random() * (caucasian if caucasian > 0.4 else 0.25)
    grey = float(np.clip((age - 38 + rng.normal() * 8) / 30, 0, 1))
    styles = _STYLES[sex]
    chances = np.array(list(styles.values()), float)
    beard = float(rng.uniform(0.15, 0.75)) if rng.random() < 0.5 else 0.0
    wall = rng.uniform(0.35, 0.72)
    return Traits(
        sex=sex,
        age=age,
        shape=_shape(seed, rng, sex, age, origin),
        skin=skin,
        hair=_mix((_mix(HAIR_COLOURS, fair), GREY), grey * 0.9),
        iris=IRIS_COLOURS[int(rng.integers(3)) if caucasian > 0.5 else 0],
        clothes=CLOTHES[int(rng.integers(len(CLOTHES)))],
        lip_tint=float(rng.uniform(0.35, 0.9) if sex == "female" else rng.uniform(0.1, 0.35)),
        brow=(
            float(rng.uniform(0.028, 0.042) if sex == "female" else rng.uniform(0.04, 0.062)),
            float(rng.uniform(-0.02, 0.04)),
            float(rng.uniform(0.55, 0.95)),
        ),
        beard=beard if sex == "male" else 0.0,
        beard_full=bool(rng.random() < 0.6),
        style=list(styles)[int(rng.choice(len(styles), p=chances / chances.sum()))],
        hairline=float(rng.uniform(-0.08, 0.12)),
        neckline=float(rng.uniform(5.2, 5.6)),
        lines=float(np.clip((age - 25) / 50, 0, 1)),
        wall=(wall * float(rng.uniform(0.92, 1.04)), wall, wall * float(rng.uniform(0.92, 1.06))),
    )
