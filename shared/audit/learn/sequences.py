"""Networks on sequences of MFCC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.convergence import check_learned
from moretta.shared.audit.learn.margin import Schedule, train_with_margin

if TYPE_CHECKING:
    import torch
    from torch import nn

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TRAIN_FRAMES = 150
TEST_FRAMES = 300
_BATCH = 64


class SequenceModel:
    """A network from MFCC to embeddings, and the direction of each speaker it was trained on."""

    def __init__(self, network: nn.Module, dimensions: int, schedule: Schedule) -> None:
        self._network, self._dimensions, self._schedule = network, dimensions, schedule

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train on random crops."""
        import torch

        sequences = [np.asarray(clips.mfcc(i)) for i in range(len(clips))]
        together = np.concatenate(sequences)
        self._mean, self._scale = together.mean(0), together.std(0) + 1e-3

        def batch_of(chosen: Ints, rng: np.random.Generator) -> torch.Tensor:
            crops = [_crop(sequences[i], TRAIN_FRAMES, rng) for i in chosen]
            return self._tensor(np.stack(crops))

        centres = train_with_margin(
            self._network, self._dimensions, batch_of, clips.labels, schedule=self._schedule, seed=seed
        )
        with torch.inference_mode():
            self._centres = torch.nn.functional.normalize(centres.detach()).numpy()
        check_learned(np.stack([_fit(s, TEST_FRAMES) for s in sequences]), clips.labels, self.cosines(clips).argmax(1))

    def embed(self, clips: ClipSet) -> Floats:
        """float32 [clips, dimensions], each of length 1."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(clips), _BATCH):
                chosen = range(start, min(start + _BATCH, len(clips)))
                batch = self._tensor(np.stack([_fit(clips.mfcc(i), TEST_FRAMES) for i in chosen]))
                parts.append(torch.nn.functional.normalize(self._network(batch)).numpy())
        return np.concatenate(parts)

    def cosines(self, clips: ClipSet) -> Floats:
        """float32 [clips, speakers]: to the direction of each training speaker."""
        cosine: Floats = self.embed(clips) @ self._centres.T
        return cosine

    @property
    def scale(self) -> float:
        """What cosines are multiplied by to become logits."""
        return self._schedule.scale

    def _tensor(self, batch: Floats) -> torch.Tensor:
        import torch

        scaled = ((batch - self._mean) / self._scale).astype(np.float32)
        return torch.from_numpy(scaled.transpose(0, 2, 1).copy())  # [clips, coefficients, frames]


def _crop(sequence: Floats, frames: int, rng: np.random.Generator) -> Floats:
    if len(sequence) <= frames:
        return _fit(sequence, frames)
    start = int(rng.integers(len(sequence) - frames + 1))
    return sequence[start : start + frames]


def _fit(sequence: Floats, frames: int) -> Floats:
    """The middle of a long sequence; a short one is repeated."""
    if len(sequence) < frames:
        return np.take(sequence, np.arange(frames) % len(sequence), axis=0)
    start = (len(sequence) - frames) // 2
    return sequence[start : start + frames]
