"""Which code runs here: versions of what matters, and a digest of Moretta's own files."""

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


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 over the Python files of the installed package, hexadecimal: equal code, equal digest."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for part in ("shared", "client", "server", "deploy"):
        for path in sorted((root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
