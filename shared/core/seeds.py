"""One seed in the study; every random choice has its own, derived from it by name."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: str | int) -> int:
    """A seed of 31 bits for one purpose, from the study's seed and the purpose's name.

    >>> derive(1, "folds") == derive(1, "folds") != derive(1, "sites")
    True
    """
    text = "\x1f".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1
