"""What a site remembers of its own speakers, so that new clips can be told relative to the old ones.

One file, readable by its owner only. It holds measurements of every clip, which tell who speaks: it never leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moretta.client.anonymize.registry import Speaker
from moretta.shared.atomic import write_atomic
from moretta.shared.errors import HomeError
from moretta.shared.features.person_ranks import Floats, secret_weights
from moretta.shared.features.person_whitening import secret_shift
from moretta.shared.features.speaker_code import PersonScale, SpeakerCode
from moretta.shared.privacy.noise import NoiseSource

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """One speaker's clips."""

    values: Rows
    """[rows, n]: one row for each clip, or for each of its steps."""
    weights: Floats
    """[rows], secret, positive. The rows of a clip share its weight, and no two clips have the same."""
    normals: Floats
    """[n], secret, drawn once: `secret_shift` makes the person's own shift of them."""

    def scale(self, code: SpeakerCode) -> PersonScale:
        """What the person's codes are told relative to."""
        _, clip, rows = np.unique(self.weights, return_inverse=True, return_counts=True)
        shift = secret_shift(self.normals[: code.size], len(rows), in_steps=len(clip) > len(rows))
        return PersonScale.of(self.values, self.weights, code, counts=1 / rows[clip], shift=shift)


class SpeakerReferences:
    """References by speaker, in memory and, if there is a path, in a file.

    Args:
        path: None remembers nothing beyond this object.
        width: measurements in a row.
    """

    def __init__(self, path: Path | None, width: int) -> None:
        self._path, self._width = path, width
        self._known: dict[Speaker, Reference] = dict(_read(path, width)) if path is not None and path.exists() else {}

    def __contains__(self, speaker: Speaker) -> bool:
        return speaker in self._known

    def __getitem__(self, speaker: Speaker) -> Reference:
        return self._known[speaker]

    def learn(self, speaker: Speaker, clips: list[Rows], noise: NoiseSource) -> None:
        """Add clips of a speaker, each [steps, n], to those that are known. A clip that is known is not added again.

        What is known keeps its weight: a new clip changes what later ones are told relative to, and nothing else.
        """
        nobody = Reference(np.empty((0, self._width), np.float32), np.empty(0), np.empty(0))
        known = self._known.get(speaker, nobody)
        seen = {row.tobytes() for row in known.values}
        new = [clip for clip in clips if clip[0].tobytes() not in seen]
        if not new:
            return
        weights = secret_weights(len(new), noise)
        shared = [np.full(len(clip), weight / len(clip)) for clip, weight in zip(new, weights, strict=True)]
        normals = known.normals if len(known.normals) else noise.normal(1.0, (self._width,))
        values, weights = np.concatenate([known.values, *new]), np.concatenate([known.weights, *shared])
        self._known[speaker] = Reference(values, weights, normals)

    def save(self) -> None:
        """Write the file, readable by its owner only."""
        if self._path is None:
            return
        from safetensors.numpy import save

        arrays = {}
        for number, reference in enumerate(self._known.values()):
            arrays[f"{number}/values"] = np.ascontiguousarray(reference.values)
            arrays[f"{number}/weights"] = np.ascontiguousarray(reference.weights)
            arrays[f"{number}/normals"] = np.ascontiguousarray(reference.normals)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path, save(arrays, {"speakers": json.dumps(list(self._known))}), mode=0o600)


def _read(path: Path, width: int) -> Iterator[tuple[Speaker, Reference]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            speakers = json.loads(file.metadata()["speakers"])
            for number, speaker in enumerate(speakers):
                names = ("values", "weights", "normals")
                values, weights, normals = (file.get_tensor(f"{number}/{name}") for name in names)
                fits = values.shape == (len(weights), width) and normals.shape == (width,) and (weights > 0).all()
                if not fits or not (np.isfinite(values).all() and np.isfinite(normals).all()):
                    shapes = f"{values.shape} measurements, {weights.shape} weights and {normals.shape} normals"
                    raise ValueError(f"speaker {number} has {shapes}")
                exact = weights.astype(np.float64), normals.astype(np.float64)
                yield str(speaker), Reference(values.astype(np.float32), *exact)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"what this site remembers of its speakers cannot be read: {type(error).__name__}: {error}",
            expected=f"the file that this version wrote, {path}",
            fix="put it back from a backup; without it new clips are told relative to new ones only",
        ) from error
