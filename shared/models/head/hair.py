"""Hair: where it starts, and the shell that gives it volume.

The shell is a curtain round the head's axis: from the crown it follows the skull, a style's thickness above it, down to
the hairline, or past it where hair hangs. Its lower edge is a smooth curve, so no mesh edge shows at the temples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moretta.shared.core.array_types import Float64
from moretta.shared.models.head.mesh import (
    AXIS_Z,
    HAIR_COLUMNS,
    SKIN_ROWS,
    STRIP_ROWS,
    WIDTH,
    Floats,
    MeshPart,
    column,
    is_mouth,
    load_asset,
    rasterise,
    row,
    unrolled,
)
from moretta.shared.models.head.traits import HairStyle, Traits

EYE_Y = 7.28
COLUMNS, ROWS = 65, 22
_MAP_SCALE = 4
"""The skull's radius is measured on a map this much coarser than the texture."""

# Hairline of a short haircut: (angle from the front in radians, height in decimetres); the ear lies near 1.6.
_ANGLES = (0.0, 0.45, 0.72, 0.95, 1.15, 1.30, 1.75, 2.05, 2.4, np.pi)
_HEIGHTS = (7.98, 7.96, 7.82, 7.55, 7.42, 7.20, 7.42, 7.10, 6.75, 6.65)


@dataclass(frozen=True)
class Cut:
    """How a style is shaped, in decimetres: thickness above the skull at the forehead, the crown and the sides."""

    front: float
    top: float
    side: float
    edge: float = 0.02
    """Thickness left at the hairline."""
    bumps: float = 0.12
    """How much the thickness varies."""
    opening: float = 0.0
    """Half angle in radians of the gap for the face, for hair that hangs; 0 if none does."""
    length: float = 0.0
    """Height down to which hanging hair reaches."""
    fringe: float = 0.0
    """How far hair falls below the hairline over the forehead."""
    lean: float = 0.0
    """How much more fringe one side has than the other."""


CUTS = {
    HairStyle.BUZZ: Cut(0.03, 0.05, 0.03, edge=0.008, bumps=0.05),
    HairStyle.SHORT: Cut(0.12, 0.16, 0.07),
    HairStyle.QUIFF: Cut(0.33, 0.24, 0.06, edge=0.03),
    HairStyle.SIDE_PART: Cut(0.16, 0.20, 0.10, fringe=0.10, lean=0.16),
    HairStyle.AFRO: Cut(0.28, 0.36, 0.32, edge=0.10, bumps=0.18),
    HairStyle.TIED: Cut(0.05, 0.10, 0.05, bumps=0.05),
    HairStyle.BOB: Cut(0.12, 0.17, 0.22, opening=0.88, length=6.35, lean=0.05),
    HairStyle.LONG: Cut(0.11, 0.15, 0.20, opening=0.9, length=5.2, lean=0.05),
    HairStyle.FRINGE: Cut(0.14, 0.17, 0.21, edge=0.06, opening=0.86, length=5.7, fringe=0.42),
}


class Shell(NamedTuple):
    """The hair of one head: vertices [Vh, 3], triangles [Fh, 3], texture places of their corners [Fh, 3, 2]."""

    vertices: Floats
    faces: NDArray[np.int32]
    places: Floats


def hairline_height(theta: Floats, style: HairStyle, lift: float) -> Floats:
    """Height of the hairline at each angle, as painted on the skin; hanging hair covers the sideburns."""
    turn = np.abs(theta)
    line = np.interp(turn, _ANGLES, _HEIGHTS) + lift * np.cos(np.clip(turn, 0, np.pi / 2))
    if style is HairStyle.BALDING:
        line = line + 0.22 * np.exp(-((turn / 0.7) ** 2))
    return np.asarray(line, np.float32)


def _skull(vertices: Floats) -> Floats:
    """Largest distance of the skin from the head's axis, ears left out, [rows, columns] of a coarse skin map."""
    asset = load_asset()
    ears = (asset.masks["ears"][asset.faces] > 0.3).any(1)
    places, radius = unrolled(vertices[asset.faces])
    width, height = WIDTH // _MAP_SCALE, SKIN_ROWS // _MAP_SCALE
    shown = (asset.part == MeshPart.SKIN) & ~is_mouth(asset) & ~ears
    return rasterise(places / _MAP_SCALE, -radius, shown, width, height).spread(radius, height, width)


def _lower_edge(theta: Floats, cut: Cut, traits: Traits) -> Floats:
    turn = np.abs(theta)
    line = hairline_height(theta, traits.style, traits.hairline)
    over = np.exp(-((turn / 0.62) ** 4))
    line = line - over * (cut.fringe + cut.lean * np.sin(2.4 * theta))
    if cut.opening:
        hang = 1 / (1 + np.exp(-(turn - cut.opening) / 0.035))
        line = line * (1 - hang) + cut.length * hang
    return np.asarray(line, np.float32)


def _thickness(theta: Floats, along: Floats, cut: Cut, rng: np.random.Generator) -> Floats:
    """Thickness of the shell on its grid, [ROWS, COLUMNS]; `along` runs from 0 at the crown to 1 at the edge."""
    front = np.clip(np.cos(theta), 0, 1) ** 2
    body = cut.side + (cut.front - cut.side) * front
    mixed = cut.top + (body - cut.top) * np.clip(along * 1.3, 0, 1)
    waves = sum(
        rng.normal() * np.sin(k * theta + rng.uniform(0, 6.3)) * np.cos(j * along * 2 + rng.uniform(0, 6.3))
        for k in (2, 3, 5, 8, 13)
        for j in (1, 2)
    )
    mixed = mixed * (1 + cut.bumps * waves / 3)
    hanging = np.abs(theta) > cut.opening if cut.opening else np.zeros_like(theta, bool)
    end = np.where(hanging, cut.side * 0.6, cut.edge)
    fade = np.clip((1 - along) / 0.22, 0, 1)
    fade = np.where(hanging, 1.0, fade * (2 - fade))
    return np.asarray(end + (mixed - end) * fade, np.float32)


def grow(vertices: Floats, traits: Traits, seed: int) -> Shell:
    """Make the hair of a head with these vertices [V, 3]."""
    cut = CUTS.get(traits.style)
    if cut is None:
        return Shell(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3, 2), np.float32))
    rng = np.random.default_rng([seed, 0x4A12])
    asset = load_asset()
    crown = float(vertices[:, 1].max())
    stretch = (crown - EYE_Y) / (float(asset.rest[:, 1].max()) - EYE_Y)
    dense = np.linspace(0.8, 1.25, 12)  # where the curtain opens
    knots = np.sort(np.concatenate([np.linspace(-np.pi, np.pi, COLUMNS - 24), dense, -dense]))
    along, theta = np.meshgrid(np.linspace(0, 1, ROWS) ** 0.85, knots, indexing="ij")
    low = _lower_edge(theta, cut, traits)
    low = np.where(low > EYE_Y, EYE_Y + (low - EYE_Y) * stretch, low)
    height = (crown - 0.004 + (low - crown + 0.004) * along**1.6).astype(np.float32)

    skull = _skull(vertices)
    skull[: int(row(np.array(crown)) / _MAP_SCALE) + 1] = 0
    if cut.opening:
        skull[int(row(np.array(6.6)) / _MAP_SCALE) :] = 0
        skull = np.maximum.accumulate(skull, axis=0)
    rows_ = np.clip(row(height) / _MAP_SCALE, 0, skull.shape[0] - 1)
    columns = np.clip(np.rint(column(theta) / _MAP_SCALE).astype(int), 0, skull.shape[1] - 1)
    above = np.floor(rows_).astype(int)
    below = np.minimum(above + 1, skull.shape[0] - 1)
    part = (rows_ - above).astype(np.float32)
    radius = skull[above, columns] * (1 - part) + skull[below, columns] * part
    thick = _thickness(theta, along, cut, rng)
    # Near the crown the skull is flat, so thickness lifts the shell rather than widening it.
    slope = np.clip(radius / 0.75, 0, 1)
    upward = np.sqrt(np.clip(1 - slope**2, 0, 1))
    radius = radius + thick * slope
    lifted = height + thick * upward
    points = np.stack([radius * np.sin(theta), lifted, AXIS_Z + radius * np.cos(theta)], axis=-1)
    return Shell(points.reshape(-1, 3).astype(np.float32), *_grid(knots))


def _grid(knots: Float64) -> tuple[NDArray[np.int32], Floats]:
    down, across = np.meshgrid(np.arange(ROWS - 1), np.arange(COLUMNS - 1), indexing="ij")
    start = (down * COLUMNS + across).ravel()
    corners = ((start, start + COLUMNS, start + 1), (start + 1, start + COLUMNS, start + COLUMNS + 1))
    faces = np.concatenate([np.stack(own, 1) for own in corners])
    strands = np.linspace(2, HAIR_COLUMNS - 3, len(knots))
    rows = np.linspace(SKIN_ROWS + 2, SKIN_ROWS + STRIP_ROWS - 3, ROWS)
    places = np.stack(np.meshgrid(strands, rows), axis=-1).reshape(-1, 2)
    return faces.astype(np.int32), places[faces].astype(np.float32)
