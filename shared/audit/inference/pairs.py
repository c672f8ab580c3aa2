"""Clips for the inference attacks: originals and releases side by side, few enough to bound the cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Array, UInt8
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.workers import Workers

MAX_CLIPS = {"voice": 600, "face": 240}
MIN_EACH = 4
"""Clips of a speaker below which fewer speakers are taken instead."""
SIDE = 64
"""Pixels of the faces that are attacked."""
FRAMES = 4
"""Frames of a clip that are attacked."""
_CHUNK = 16


@dataclass(frozen=True)
class Pair:
    """The same clips before (None if they are not to be had) and after anonymization, in one order."""

    original: ClipSet | None
    released: ClipSet
    note: str
    """What part of the clips this is; empty if it is all of them."""


def thinned(clips: ClipSet, limit: int, *, seed: int) -> ClipSet:
    """At most about `limit` clips, equally many of each speaker, by pseudonym; of very many speakers only some."""
    rng = np.random.default_rng([seed, 0x7417])
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(clips)), key=lambda i: clips.clips[i].clip):
        by_speaker[clips.clips[index].speaker].append(index)
    names = sorted(by_speaker)
    names = [names[i] for i in np.sort(rng.permutation(len(names))[: max(2, limit // MIN_EACH)])]
    each = max(MIN_EACH, limit // max(1, len(names)))
    if len(clips) <= limit:
        each = len(clips)
    return clips.subset(row for name in names for row in _some(by_speaker[name], each, rng))


def prepare_pair(original: ClipSet | None, released: ClipSet, scratch: Path, pool: Workers, *, seed: int) -> Pair:
    """Thin, read once, and put both sets into one order. Clips that either lacks, or cannot read, are left out."""
    if original is not None:
        known = {clip.clip for clip in original.clips}
        released = released.subset(i for i, clip in enumerate(released.clips) if clip.clip in known)
    few = thinned(released, MAX_CLIPS[released.modality], seed=seed)
    note = "" if len(few) == len(released) else f"on {len(few)} of {len(released)} clips, drawn evenly over speakers"
    if released.modality == "voice":
        ready = few.with_views(scratch)
        coefficients = ready.mfcc(0).shape[1] if len(ready) and not ready.holds_codes else None
        before = None if original is None else _like(original, ready).with_views(scratch, coefficients=coefficients)
    else:
        ready = _small(few, pool)
        before = None if original is None else _small(_like(original, ready), pool)
        note = "; ".join(filter(None, (note, f"on {FRAMES} frames a clip of {SIDE} x {SIDE} pixels")))
    if before is None:
        return Pair(None, ready, note)
    return Pair(before, _like(ready, before), note)


def _like(clips: ClipSet, other: ClipSet) -> ClipSet:
    """The clips that `other` has too, in its order."""
    place = {clip.clip: index for index, clip in enumerate(clips.clips)}
    return clips.subset(place[clip.clip] for clip in other.clips if clip.clip in place)


def _some(rows: list[int], count: int, rng: np.random.Generator) -> list[int]:
    return [rows[i] for i in np.sort(rng.permutation(len(rows))[:count])]


def _small(clips: ClipSet, pool: Workers) -> ClipSet:
    """The same clips as few small frames in memory: reading and cropping a video again would cost far more."""
    chunks = [range(start, min(start + _CHUNK, len(clips))) for start in range(0, len(clips), _CHUNK)]
    found: list[list[UInt8 | None]] = [[] for _ in chunks]
    for index, frames in pool.run(_shrink, [(clips.subset(chunk),) for chunk in chunks]):
        found[index] = frames
    flat: Sequence[UInt8 | None] = [frames for chunk in found for frames in chunk]
    kept = [i for i, frames in enumerate(flat) if frames is not None]
    arrays: list[Array] = [frames for frames in flat if frames is not None]
    small = ClipSet.from_arrays([clips.clips[i] for i in kept], arrays, modality="face", form="frames")
    return replace(small, damaged=dict(clips.damaged))


def _shrink(clips: ClipSet) -> list[UInt8 | None]:
    """uint8 [FRAMES, SIDE, SIDE, 3] of each clip, None of one that cannot be read."""
    import cv2

    def small(index: int) -> UInt8 | None:
        try:
            frames = clips.frames(index)
        except (ClipError, ReleaseError):
            return None
        if not len(frames):
            return None
        chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
        return np.stack([cv2.resize(frames[i], (SIDE, SIDE), interpolation=cv2.INTER_AREA) for i in chosen])

    return [small(index) for index in range(len(clips))]
