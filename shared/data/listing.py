"""Long lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def listed(items: Sequence[object], most: int = 10) -> str:
    """The first of many, and how many more there are.

    >>> listed([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
