"""Public arrays that come with the package, built of public data and a fixed seed for the usual options.

`python -m moretta.deploy.synth.build_public` writes the files and their manifest. Nothing here depends on a study's
seed or on a site. Studies with other options have their arrays computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError

FOLDER = Path(__file__).with_name("public")
MANIFEST = "manifest.json"
SCALE = "/scale"
"""Ends the name of the factors by which an array that is stored in 8 bits is multiplied, one for each of its rows."""


def pinned_arrays(choices: Mapping[str, Any]) -> dict[str, Array] | None:
    """The arrays that were built for exactly these choices; None if there are none. Raises StudyError: a file is
    missing, or is not the one that was pinned."""
    entry = next((entry for entry in _entries(FOLDER) if entry["choices"] == choices), None)
    if entry is None:
        return None
    path = FOLDER / entry["file"]
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise StudyError(
            f"{path}, which is not what Moretta came with",
            expected=f"sha256 {entry['sha256']}",
            fix="install Moretta again",
        )
    stored = load(data)
    for name in [name for name, array in stored.items() if array.dtype == np.int8]:
        rows = stored.pop(name + SCALE).reshape(-1, *[1] * (stored[name].ndim - 1))
        stored[name] = stored[name].astype(np.float32) * rows
    return stored


@lru_cache(maxsize=4)
def _entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / MANIFEST
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["arrays"] if path.exists() else []
    return entries
