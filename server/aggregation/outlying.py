"""Updates that lie far outside those of the other sites, by their length and by their direction.

They are named and not dropped: a site with other people may be right. A robust strategy would drop them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from moretta.shared.core.array_types import Array, Float64

FEWEST = 3
"""Fewest sites among which one can be outlying."""
_VALUES = 16_384
"""Of an update, whose direction is looked at."""
_FAR = 6.0
"""Robust standard deviations, such as 1.4826 times the median distance from the median."""
_LEAST_LENGTH, _LEAST_COSINE = 0.3, 0.05
"""Added to the deviations: where all are alike, a small difference is none. Lengths are compared by their logarithm."""
Change = Mapping[str, Array]


def outlying(changes: Iterable[tuple[str, Change]]) -> dict[str, str]:
    """Sites whose update is much longer or shorter than the others', or points against them, and how, in words.

    Args:
        changes: site, and what its update changes, finite, by name of the array; one is looked at at a time. Lengths
            are of all values, directions of some thousands of them.
    """
    sites, lengths_of, some = [], [], []
    for site, change in changes:
        row = np.concatenate([np.ravel(change[name]) for name in sorted(change)]).astype(np.float64, copy=False)
        sites.append(site)
        lengths_of.append(float(np.linalg.norm(row)))
        some.append(row[:: -(-len(row) // _VALUES)])
    if len(sites) < FEWEST:
        return {}
    norms, rows = np.array(lengths_of), np.stack(some)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-300)[:, None]
    others = units.sum(axis=0) - units
    lengths = np.linalg.norm(others, axis=1)
    cosines = np.einsum("ij,ij->i", units, others) / np.maximum(lengths, 1e-300)
    far = _distance(np.log(np.maximum(norms, 1e-12)), _LEAST_LENGTH)
    against = _distance(cosines, _LEAST_COSINE)
    found: dict[str, str] = {}
    for index, site in enumerate(sites):
        if abs(far[index]) > _FAR:
            found[site] = f"of length {norms[index]:.3g}, where the median is {np.median(norms):.3g}"
        elif against[index] < -_FAR:
            found[site] = f"of cosine {cosines[index]:.2f} to the others, where the median is {np.median(cosines):.2f}"
    return found


def _distance(values: Float64, least: float) -> Float64:
    """From the median, in robust standard deviations."""
    middle = np.median(values)
    distance: Float64 = (values - middle) / (1.4826 * np.median(np.abs(values - middle)) + least)
    return distance
