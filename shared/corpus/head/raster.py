"""A z-buffer rasteriser in numpy: all triangles at once, no loop over them.

Every triangle lists the pixels of its bounding box; those inside it survive, and the nearest of each pixel wins. Meshes of
faces have triangles of a few pixels, for which this is quicker than filling polygons one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class Fragments(NamedTuple):
    """The visible piece of surface of every covered pixel.

    Attributes:
        pixel: row-major index of the pixel, [N].
        triangle: index of the triangle seen there, [N].
        weights: barycentric weights of its three corners, [N, 3].
    """

    pixel: NDArray[np.int64]
    triangle: NDArray[np.int64]
    weights: NDArray[np.float32]


def rasterise(corners: Floats, depth: Floats, shown: NDArray[np.bool_], width: int, height: int) -> Fragments:
    """Find what each pixel sees.

    Args:
        corners: screen positions in pixels, x right and y down, [F, 3, 2]; pixel centres have whole coordinates.
        depth: distance of each corner from the camera, [F, 3].
        shown: triangles to draw, [F].
        width: pixels per row.
        height: rows.
    """
    low = np.ceil(np.clip(corners.min(1), 0, (width, height))).astype(np.int32)
    high = np.floor(np.minimum(corners.max(1), (width - 1, height - 1))).astype(np.int32)
    size = high - low + 1
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    chosen = np.flatnonzero(shown & (size > 0).all(1) & (np.abs(area) > 1e-9))
    size, low = size[chosen], low[chosen]
    count = size[:, 0] * size[:, 1]
    own = np.repeat(np.arange(len(chosen)), count)
    offset = np.arange(len(own)) - np.repeat(np.cumsum(count) - count, count)
    down, across = np.divmod(offset, size[own, 0])
    x, y = low[own, 0] + across, low[own, 1] + down

    # Both weights are affine in (x, y), so each triangle needs six numbers.
    inverse = 1 / area[chosen]
    ab, ac, a = ab[chosen] * inverse[:, None], ac[chosen] * inverse[:, None], a[chosen]
    planes = np.stack(
        [ac[:, 1], -ac[:, 0], a[:, 1] * ac[:, 0] - a[:, 0] * ac[:, 1]]
        + [-ab[:, 1], ab[:, 0], a[:, 0] * ab[:, 1] - a[:, 1] * ab[:, 0]],
        axis=1,
    ).astype(np.float32)[own]
    second = planes[:, 0] * x + planes[:, 1] * y + planes[:, 2]
    third = planes[:, 3] * x + planes[:, 4] * y + planes[:, 5]
    first = 1 - second - third
    inside = np.flatnonzero((first >= -1e-4) & (second >= -1e-4) & (third >= -1e-4))
    weights = np.stack([first[inside], second[inside], third[inside]], axis=1)
    triangle, pixel = chosen[own[inside]], (y[inside] * width + x[inside]).astype(np.int64)

    distance = (depth[triangle] * weights).sum(1)
    near, far = (float(distance.min()), float(distance.max())) if len(distance) else (0.0, 1.0)
    # Sixteen bits sort by radix, and are finer than the mesh: less than a tenth of a millimetre.
    steps = ((far - distance) * (65535 / max(far - near, 1e-9))).astype(np.uint16)
    order = np.argsort(steps, kind="stable")
    seen = np.full(width * height, -1)
    seen[pixel[order]] = order
    visible = seen[seen >= 0]
    return Fragments(pixel[visible], triangle[visible], weights[visible])
