"""What new clips of a speaker are told relative to: the speaker's clips that are at the site now, and their secrets.

Only the secrets are kept from one release to the next, in one file that its owner alone can read: a random weight for
each clip, known again by a digest of its samples, and a shift for each speaker. No measurement of a voice is in it, and
a clip that is no longer there when a site makes a release has no part in it and is forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.features.speaker_code import CodeReference, SpeakerCode
from moretta.shared.features.speaker_normalization import Floats, secret_shift, secret_weights
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Array, Speaker

Rows = npt.NDArray[np.float32]
ClipDigest = bytes
MeasuredClip = tuple[ClipDigest, Rows]
"""Which clip it is, and its measurements, [1, n] or [steps, n]."""
_DIGEST_BYTES = 32


def clip_digest(samples: Array) -> ClipDigest:
    """The same for the same samples, whatever their file is called."""
    return hashlib.blake2b(np.ascontiguousarray(samples, np.float32).tobytes(), digest_size=_DIGEST_BYTES).digest()


def forget(folder: Path, *names: str) -> None:
    """Remove files of earlier versions: they hold measurements of clips, even of those that were deleted since."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def forget_speaker(folder: Path, speaker: Speaker) -> int:
    """Remove one person's secrets from every file of a folder; how many files they were in.

    A file that cannot be read is removed as a whole: its secrets are then drawn anew.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save

    found = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                speakers = json.loads(file.metadata()["speakers"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            path.unlink()
            found += 1
            continue
        if speaker not in speakers:
            continue
        left = [number for number, other in enumerate(speakers) if other != speaker]
        kept = {
            f"{new}/{name.partition('/')[2]}": array
            for new, old in enumerate(left)
            for name, array in arrays.items()
            if name.startswith(f"{old}/")
        }
        write_atomic(path, save(kept, {"speakers": json.dumps([speakers[number] for number in left])}), mode=0o600)
        found += 1
    return found


@dataclass(frozen=True)
class Reference:
    """One speaker's clips."""

    values: Rows
    """[rows, n]: one row for each clip, or for each of its steps."""
    weights: Floats
    """[rows], secret, positive. The rows of a clip share its weight, and no two clips have the same."""
    normals: Floats
    """[n], secret, drawn once: `secret_shift` makes the person's own shift of them."""

    def scale(self, code: SpeakerCode) -> CodeReference:
        """What the person's codes are told relative to."""
        _, clip, rows = np.unique(self.weights, return_inverse=True, return_counts=True)
        shift = secret_shift(self.normals[: code.size], len(rows), in_windows=len(clip) > len(rows))
        return CodeReference.of(self.values, self.weights, code, counts=1 / rows[clip], shift=shift)


@dataclass(frozen=True)
class _Secrets:
    """Of one speaker."""

    weights: dict[ClipDigest, float]
    normals: Floats


class SpeakerReferences:
    """References by speaker, in memory; their secrets also in a file, if there is a path.

    Args:
        path: None remembers nothing beyond this object.
        width: measurements in a row.
    """

    def __init__(self, path: Path | None, width: int) -> None:
        self._path, self._width = path, width
        self._secrets: dict[Speaker, _Secrets] = dict(_read(path, width)) if path is not None and path.exists() else {}
        self._known: dict[Speaker, Reference] = {}

    def __contains__(self, speaker: Speaker) -> bool:
        return speaker in self._known

    def __getitem__(self, speaker: Speaker) -> Reference:
        return self._known[speaker]

    def learn(self, clips: Mapping[Speaker, Sequence[MeasuredClip]], noise: NoiseSource) -> None:
        """Take all clips that are at the site, in place of those that were; the same samples count once.

        A clip that was there before keeps its weight, and a speaker the shift; what is gone is forgotten.
        """
        measured = {speaker: dict(clips[speaker]) for speaker in sorted(clips) if clips[speaker]}
        self._secrets = {speaker: self._secrets_of(speaker, list(clips), noise) for speaker, clips in measured.items()}
        self._known = {speaker: _reference(clips, self._secrets[speaker]) for speaker, clips in measured.items()}

    def save(self) -> None:
        """Write the secrets, readable by their owner only."""
        if self._path is None:
            return
        from safetensors.numpy import save

        arrays: dict[str, npt.NDArray[np.uint8] | Floats] = {}
        for number, secrets in enumerate(self._secrets.values()):
            digests = np.frombuffer(b"".join(secrets.weights), np.uint8)
            arrays[f"{number}/clips"] = digests.reshape(-1, _DIGEST_BYTES)
            arrays[f"{number}/weights"] = np.array(list(secrets.weights.values()))
            arrays[f"{number}/normals"] = np.ascontiguousarray(secrets.normals)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path, save(arrays, {"speakers": json.dumps(list(self._secrets))}), mode=0o600)

    def _secrets_of(self, speaker: Speaker, clips: list[ClipDigest], noise: NoiseSource) -> _Secrets:
        known = self._secrets.get(speaker)
        weights = {} if known is None else known.weights
        new = [clip for clip in clips if clip not in weights]
        drawn = dict(zip(new, secret_weights(len(new), noise), strict=True)) if new else {}
        normals = noise.normal(1.0, (self._width,)) if known is None else known.normals
        return _Secrets({clip: float((weights | drawn)[clip]) for clip in clips}, normals)


def _reference(clips: Mapping[ClipDigest, Rows], secrets: _Secrets) -> Reference:
    shared = [np.full(len(rows), secrets.weights[clip] / len(rows)) for clip, rows in clips.items()]
    return Reference(np.concatenate(list(clips.values())), np.concatenate(shared), secrets.normals)


def _read(path: Path, width: int) -> Iterator[tuple[Speaker, _Secrets]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            speakers = json.loads(file.metadata()["speakers"])
            for number, speaker in enumerate(speakers):
                names = ("clips", "weights", "normals")
                clips, weights, normals = (file.get_tensor(f"{number}/{name}") for name in names)
                fits = clips.dtype == np.uint8 and clips.shape == (len(weights), _DIGEST_BYTES)
                fits = fits and weights.ndim == 1 and normals.shape == (width,) and bool((weights > 0).all())
                if not fits or not (np.isfinite(weights).all() and np.isfinite(normals).all()):
                    shapes = f"{clips.shape} digests, {weights.shape} weights and {normals.shape} normals"
                    raise ValueError(f"speaker {number} has {shapes}")
                by_clip = {clip.tobytes(): float(weight) for clip, weight in zip(clips, weights, strict=True)}
                yield str(speaker), _Secrets(by_clip, normals.astype(np.float64))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"what this site remembers of its speakers cannot be read: {type(error).__name__}: {error}",
            expected=f"the file that this version wrote, {path}",
            fix="put it back from a backup, or delete it: secret weights and shifts are then drawn anew, and what "
            "somebody learns from two releases of one clip is no longer alike in both",
        ) from error
