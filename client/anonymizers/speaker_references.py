"""The reference by which a speaker's clips are normalized: all clips of the speaker at the site, and their secrets.

Only the secrets are kept from one release to the next, in one file that its owner alone can read: a random weight for
each clip, known again by a digest of its samples, and a shift for each speaker. No measurement of a voice is in it, and
a clip that is no longer there when a site makes a release has no part in it and is forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.atomic import private_folder, write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.features.speaker_code import CodeReference, SpeakerCode
from moretta.shared.features.speaker_normalization import secret_shift, secret_weights
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Speaker

Rows = Float32
ClipDigest = bytes
MeasuredClip = tuple[ClipDigest, Rows]
"""Which clip it is, and its measurements, [1, n] or [steps, n]."""
_DIGEST_BYTES = 32


class _Secrets(NamedTuple):
    """Secrets of one speaker."""

    weights: dict[ClipDigest, float]
    normals: Float64


def clip_digest(samples: Array) -> ClipDigest:
    """Digest of a clip's samples, which does not depend on the name of its file."""
    return hashlib.blake2b(np.ascontiguousarray(samples, np.float32).tobytes(), digest_size=_DIGEST_BYTES).digest()


def forget_speaker(folder: Path, speaker: Speaker) -> int:
    """Remove one person's secrets from every file of a folder; how many files they were in.

    A file that cannot be read is removed as a whole: its secrets are then drawn anew.
    """
    found = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            secrets = _read(path)
        except HomeError:
            path.unlink()
            found += 1
            continue
        if secrets.pop(speaker, None) is not None:
            _write(path, secrets)
            found += 1
    return found


@dataclass(frozen=True)
class Reference:
    """One speaker's clips."""

    values: Rows
    """[rows, n]: one row for each clip, or for each of its steps."""
    weights: Float64
    """[rows], secret, positive. The rows of a clip share its weight, and no two clips have the same."""
    normals: Float64
    """[n], secret, drawn once: `secret_shift` makes the person's own shift of them."""

    def scale(self, code: SpeakerCode) -> CodeReference:
        """The ranks and the whitening by which the person's codes are normalized."""
        _, clip, rows = np.unique(self.weights, return_inverse=True, return_counts=True)
        shift = secret_shift(self.normals[: code.size], len(rows), in_windows=len(clip) > len(rows))
        return CodeReference.of(self.values, self.weights, code, counts=1 / rows[clip], shift=shift)


class SpeakerReferences:
    """References by speaker, in memory; their secrets also in a file, if there is a path. `path`: None remembers
    nothing beyond this object."""

    def __init__(self, path: Path | None, width: int) -> None:
        self._path, self._width = path, width
        self._secrets = _read(path, width) if path is not None and path.exists() else {}
        self._known: dict[Speaker, Reference] = {}

    def __contains__(self, speaker: Speaker) -> bool:
        return speaker in self._known

    def __getitem__(self, speaker: Speaker) -> Reference:
        return self._known[speaker]

    def learn(self, clips: Mapping[Speaker, Sequence[MeasuredClip]], noise: NoiseSource) -> None:
        """Take all clips that are at the site, in place of those that were; the same samples count once.

        A clip that was there before keeps its weight, and a speaker the shift; what is gone is forgotten. The secrets
        are written where only their owner reads them.
        """
        former, self._secrets, self._known = self._secrets, {}, {}
        for speaker in sorted(speaker for speaker in clips if clips[speaker]):
            rows_of, (weights, normals) = dict(clips[speaker]), former.get(speaker, _Secrets({}, np.empty(0)))
            if new := [clip for clip in rows_of if clip not in weights]:
                weights = weights | dict(zip(new, secret_weights(len(new), noise).tolist(), strict=True))
            if speaker not in former:
                normals = noise.normal(1.0, (self._width,))
            self._secrets[speaker] = _Secrets({clip: weights[clip] for clip in rows_of}, normals)
            shared = [np.full(len(rows), weights[clip] / len(rows)) for clip, rows in rows_of.items()]
            self._known[speaker] = Reference(np.concatenate(list(rows_of.values())), np.concatenate(shared), normals)
        if self._path is not None:
            private_folder(self._path.parent)
            _write(self._path, self._secrets)


def _write(path: Path, secrets: Mapping[Speaker, _Secrets]) -> None:
    arrays: dict[str, Array] = {}
    for number, own in enumerate(secrets.values()):
        arrays[f"{number}/clips"] = np.frombuffer(b"".join(own.weights), np.uint8).reshape(-1, _DIGEST_BYTES)
        arrays[f"{number}/weights"] = np.array(list(own.weights.values()))
        arrays[f"{number}/normals"] = np.ascontiguousarray(own.normals)
    write_atomic(path, save(arrays, {"speakers": json.dumps(list(secrets))}), mode=0o600)


def _read(path: Path, width: int | None = None) -> dict[Speaker, _Secrets]:
    found: dict[Speaker, _Secrets] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for number, speaker in enumerate(json.loads(file.metadata()["speakers"])):
                names = ("clips", "weights", "normals")
                clips, weights, normals = (file.get_tensor(f"{number}/{name}") for name in names)
                fits = clips.dtype == np.uint8 and clips.shape == (len(weights), _DIGEST_BYTES)
                fits = fits and weights.ndim == 1 and normals.shape == (width or len(normals),)
                fits = fits and bool((weights > 0).all() and np.isfinite(weights).all() and np.isfinite(normals).all())
                if not fits:
                    shapes = f"{clips.shape} digests, {weights.shape} weights and {normals.shape} normals"
                    raise ValueError(f"speaker {number} has {shapes}")
                by_clip = {clip.tobytes(): float(weight) for clip, weight in zip(clips, weights, strict=True)}
                found[str(speaker)] = _Secrets(by_clip, normals.astype(np.float64))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"what this site remembers of its speakers cannot be read: {type(error).__name__}: {error}",
            expected=f"the file that this version wrote, {path}",
            fix="put it back from a backup, or delete it: secret weights and shifts are then drawn anew, and what "
            "somebody learns from two releases of one clip is no longer alike in both",
        ) from error
    return found
