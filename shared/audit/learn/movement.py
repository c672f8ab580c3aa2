"""How faces move: clips as sequences of a few numbers a frame, and statistics of those sequences over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.views import code_statistics_of

Floats = npt.NDArray[np.float32]
COMPONENTS = 12
_FRAMES_PER_COMPONENT = 16
_MAX_FRAMES = 6000


class Movement:
    """Principal components of the frames of the clips that an attacker knows."""

    def fit(self, clips: ClipSet, *, seed: int) -> Movement:
        """Learn the components, from at most 6000 frames; returns itself."""
        from sklearn.decomposition import PCA

        frames = np.concatenate([_flat(clips, i) for i in range(len(clips))])
        chosen = np.random.default_rng(seed).permutation(len(frames))[:_MAX_FRAMES]
        # More components than the frames can teach are noise of those frames, and smaller in all others.
        components = min(COMPONENTS, max(1, len(chosen) // _FRAMES_PER_COMPONENT))
        self._reduce: Any = PCA(components, svd_solver="full").fit(frames[np.sort(chosen)])
        return self

    def vectors(self, clips: ClipSet) -> Floats:
        """float32 [clips, d]: how the components are distributed over a clip, and how their speeds are.

        Both with how they change together, now and from one frame to the next: `code_statistics_of`.
        """
        rows = []
        for i in range(len(clips)):
            sequence = self._reduce.transform(_flat(clips, i))
            rows.append(np.concatenate([code_statistics_of(sequence), code_statistics_of(_speeds(sequence))]))
        return np.stack(rows)


def _speeds(sequence: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Change from frame to frame; nothing moves in a clip of one frame."""
    return np.diff(sequence, axis=0) if len(sequence) > 1 else np.zeros_like(sequence)


def _flat(clips: ClipSet, index: int) -> Floats:
    frames = clips.movement(index)
    return np.asarray(frames.reshape(len(frames), -1), np.float32) / np.float32(255)
