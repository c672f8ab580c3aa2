"""The least number for which something holds, by bisection from above: what is found holds."""

from __future__ import annotations

import math
from collections.abc import Callable

_SMALLEST, _LARGEST = 1e-18, 1e18


def least(holds: Callable[[float], bool], *, start: float, factor: float = 2.0, precision: float = 1e-12) -> float:
    """The least positive number from which on `holds` is true.

    Args:
        holds: false below some number and true from it on.
        start: near the answer.
        factor: steps in which the answer is enclosed.
        precision: relative.

    Returns:
        infinity if `holds` is false at 1e18 times the start.

    >>> round(least(lambda x: x * x >= 2, start=1.0), 9)
    1.414213562
    """
    high = start
    while not holds(high):
        high *= factor
        if high > _LARGEST * start:
            return math.inf
    low = high / factor
    while low > _SMALLEST * start and holds(low):
        low, high = low / factor, low
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
