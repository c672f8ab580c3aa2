"""Facts that figures depend on: seeds derived from the study's, versions of packages, a digest of Moretta's files."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "moretta",
    "flwr",
    "torch",
    "torchaudio",
    "opacus",
    "scikit-learn",
    "opencv-python-headless",
    "numpy",
    "ray",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


_DIGESTED = (".py", ".json", ".npz", ".safetensors")
"""Pinned arrays, too: they decide what a site approves without its steward."""


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 over the code and the arrays of the installed package, hexadecimal: equal code, equal digest."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for part in ("shared", "client", "server", "deploy"):
        for path in sorted(path for path in (root / part).rglob("*") if path.suffix in _DIGESTED):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def derive(seed: int, *labels: str | int) -> int:
    """A seed of 31 bits for one purpose, from the study's seed and the purpose's name.

    >>> derive(1, "folds") == derive(1, "folds") != derive(1, "sites")
    True
    """
    text = "\x1f".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1
