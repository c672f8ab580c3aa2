"""What a site approves: a study, and every public array that it would use for it, by content.

Both sides compute the digest of the same canonical JSON. Whatever differs in a study or in an array is another offer,
which was not approved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.study.schema import Study

Array = npt.NDArray[Any]


def described(arrays: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Type, shape and SHA-256 of each array, by name."""
    return {name: _described(arrays[name]) for name in sorted(arrays)}


def arrays_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what `described` gives, 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(facts)).hexdigest()


def approval_digest(study: Study, facts: Mapping[str, Any]) -> str:
    """SHA-256 of a whole study, without the files it names, together with what `described` gives of its arrays.

    All of the study counts, also what costs no privacy: a steward approves what was read.
    """
    content = {"study": study.without_paths().model_dump(mode="json"), "arrays": dict(facts)}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _described(array: Array) -> dict[str, Any]:
    content = np.ascontiguousarray(array)
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    return {"dtype": content.dtype.str, "shape": list(array.shape), "sha256": digest}


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
