"""Answers with noise of their own, kept so that a question that is asked again is answered alike.

A server that lost a round to a crash asks again. Training again would draw new noise, which is a second loss and
another result; the kept update costs nothing more and makes the redone round exact.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.terms import Modality
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

Array = npt.NDArray[Any]
Metrics = dict[str, int | float]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What was answered, such as to one round of local training."""

    arrays: dict[str, Array]
    metrics: Metrics


def question(
    study: Study,
    kind: ModelKind,
    round_number: int,
    weights: Mapping[str, Array],
    proximal: float,
    *,
    beside: Mapping[Modality, Mapping[str, Array]] | None = None,
) -> str:
    """SHA-256 over everything that one round of training depends on, hexadecimal."""
    others = {
        f"{modality}:{name}": array for modality, model in (beside or {}).items() for name, array in model.items()
    }
    text = f"{study.digest()} {kind}/{study.model_of(kind)} {round_number} {proximal!r}"
    return digest_of(text, {**weights, **others})


def digest_of(text: str, arrays: dict[str, Array]) -> str:
    """SHA-256 of a text and of arrays with their names, hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """No other process is in here with this file meanwhile; the lock ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class UpdateStore:
    """The answers of one study, by name: the last round of each model, every round of a code."""

    folder: Path

    @classmethod
    def of(cls, root: Path, study: Study) -> UpdateStore:
        """The store of a study under a site's folder of updates."""
        return cls(root / study.digest()[:16])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process answers questions of this study meanwhile; the lock ends with the process that holds it."""
        with exclusively(self.folder / ".lock"):
            yield

    def find(self, name: str, request_digest: str) -> StoredResponse | None:
        """The kept answer of this name to this question; None if it was to another, or none can be read."""
        try:
            with safe_open(self._path(name), framework="numpy") as file:
                said = file.metadata() or {}
                if said.get("question") != request_digest:
                    return None
                return StoredResponse({key: file.get_tensor(key) for key in file.keys()}, json.loads(said["metrics"]))  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def keep(self, name: str, request_digest: str, update: StoredResponse) -> None:
        """Keep an answer in the place of the last one of this name."""
        said = {"question": request_digest, "metrics": json.dumps(update.metrics)}
        arrays = {key: np.ascontiguousarray(array) for key, array in update.arrays.items()}
        write_atomic(self._path(name), save(arrays, metadata=said), mode=0o600)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
