"""The Pareto front: what nothing else is better than in both respects."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points are not dominated, where more is better in both coordinates.

    A point is dominated by another that is at least as good in both and better in one. Of equal points all stay.

    >>> pareto_front([(0.5, 0.1), (0.4, 0.3), (0.4, 0.2), (0.5, 0.1)])
    [True, True, False, True]
    """
    front = [False] * len(points)
    best = float("-inf")
    order = sorted(range(len(points)), key=lambda index: points[index], reverse=True)
    last: tuple[float, float] | None = None
    for index in order:
        first, second = points[index]
        if second > best or points[index] == last:
            front[index] = True
            best, last = max(best, second), (first, second)
    return front
