"""A z-buffer rasteriser in numpy: all triangles at once, no loop over them.

Every triangle lists the pixels of its bounding box; those inside it survive, and the nearest of each pixel wins.
Meshes of faces have triangles of a few pixels, for which this is quicker than filling polygons one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
_SLACK = -1e-4
"""Weights this far below zero still count as inside, so that no pixel falls between neighbours."""


class Fragments(NamedTuple):
    """The visible piece of surface of every covered pixel.

    Attributes:
        pixel: row-major index of the pixel, [N].
        triangle: index of the triangle seen there, [N].
        weights: barycentric weights of its three corners, [3, N].
    """

    pixel: NDArray[np.int32]
    triangle: NDArray[np.int32]
    weights: Floats

    def mix(self, corners: Floats) -> Floats:
        """Interpolate values given at the corners of all triangles, [F, 3, C], to the fragments, [N, C]."""
        own = corners[self.triangle]
        first, second, third = self.weights[..., None]
        # Written out: numpy reduces short axes slowly.
        return np.asarray(own[:, 0] * first + own[:, 1] * second + own[:, 2] * third)


class _Planes(NamedTuple):
    """The second and third barycentric weight of each triangle as `slope_x * x + slope_y * y + offset`, each [F]."""

    second: tuple[Floats, Floats, Floats]
    third: tuple[Floats, Floats, Floats]


def _planes(a: Floats, b: Floats, c: Floats, area: Floats) -> _Planes:
    ab, ac = (b - a) / area, (c - a) / area
    second = (ac[1], -ac[0], a[1] * ac[0] - a[0] * ac[1])
    third = (-ab[1], ab[0], a[0] * ab[1] - a[1] * ab[0])
    return _Planes(second, third)


def _nearest(pixel: NDArray[np.int32], distance: Floats, pixels: int) -> NDArray[np.int64]:
    """Positions in `pixel` of the fragment nearest to the camera, one for each covered pixel."""
    near, far = (float(distance.min()), float(distance.max())) if len(distance) else (0.0, 1.0)
    # Sixteen bits sort by radix, and are finer than the mesh: less than a tenth of a millimetre.
    steps = ((far - distance) * (65535 / max(far - near, 1e-9))).astype(np.uint16)
    order = np.argsort(steps, kind="stable")
    seen = np.full(pixels, -1)
    seen[pixel[order]] = order
    return seen[seen >= 0]


def rasterise(corners: Floats, depth: Floats, shown: NDArray[np.bool_], width: int, height: int) -> Fragments:
    """Find what each pixel sees.

    Args:
        corners: screen positions in pixels, x right and y down, [F, 3, 2]; pixel centres have whole coordinates.
        depth: distance of each corner from the camera, [F, 3].
        shown: triangles to draw, [F].
        width: pixels per row.
        height: rows.
    """
    x, y = corners[..., 0].T, corners[..., 1].T
    left = np.ceil(np.clip(np.minimum(np.minimum(x[0], x[1]), x[2]), 0, width)).astype(np.int32)
    right = np.floor(np.minimum(np.maximum(np.maximum(x[0], x[1]), x[2]), width - 1)).astype(np.int32)
    top = np.ceil(np.clip(np.minimum(np.minimum(y[0], y[1]), y[2]), 0, height)).astype(np.int32)
    bottom = np.floor(np.minimum(np.maximum(np.maximum(y[0], y[1]), y[2]), height - 1)).astype(np.int32)
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

    places = corners[chosen].transpose(1, 2, 0)
    planes = _planes(places[0], places[1], places[2], area[chosen])
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
