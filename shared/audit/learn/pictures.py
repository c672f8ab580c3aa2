"""Networks on few small frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import NotConvergedError
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.convergence import check_learned
from moretta.shared.audit.learn.margin import Schedule, train_with_margin

if TYPE_CHECKING:
    import torch
    from torch import nn

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
FrameOf = Callable[[Frames, np.random.Generator], Frames]
"""Takes one of a clip's frames."""
_LONGER = 4
_SHIFT = 3  # pixels by which training frames are moved
_BATCH = 32


class PictureModel:
    """A network from frames to embeddings; a clip is the mean of its frames."""

    def __init__(self, network: nn.Module, dimensions: int, schedule: Schedule) -> None:
        self._network, self._dimensions, self._schedule = network, dimensions, schedule

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train on one frame of each clip at a time, mirrored and shifted at random.

        Where a release hides people so well that nothing is left which still holds of a mirrored frame, that is not
        learned. Then training goes on with frames as they are, longer: an attacker who has learned what it was shown,
        and fails, says something.

        Raises:
            NotConvergedError: that was not learned either.
        """
        try:
            self._train(clips, _varied, self._schedule, seed)
        except NotConvergedError:
            self._train(clips, _any, replace(self._schedule, epochs=_LONGER * self._schedule.epochs), seed)

    def _train(self, clips: ClipSet, frame_of: FrameOf, schedule: Schedule, seed: int) -> None:
        import torch

        def batch_of(chosen: Ints, rng: np.random.Generator) -> torch.Tensor:
            return _tensor(np.stack([frame_of(clips.thumbnails(int(i)), rng) for i in chosen]))

        centres = train_with_margin(
            self._network, self._dimensions, batch_of, clips.labels, schedule=schedule, seed=seed
        )
        with torch.inference_mode():
            self._centres = torch.nn.functional.normalize(centres.detach()).numpy()
        middles = np.stack([frames[len(frames) // 2] for frames in map(clips.thumbnails, range(len(clips)))])
        check_learned(middles, clips.labels, self.cosines(clips).argmax(1))

    def embed(self, clips: ClipSet) -> Floats:
        """float32 [clips, dimensions], each of length 1."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(clips), _BATCH):
                frames = [clips.thumbnails(i) for i in range(start, min(start + _BATCH, len(clips)))]
                vectors = torch.nn.functional.normalize(self._network(_tensor(np.concatenate(frames))))
                for part in torch.split(vectors, [len(f) for f in frames]):
                    rows.append(torch.nn.functional.normalize(part.mean(0), dim=0).numpy())
        return np.stack(rows)

    def cosines(self, clips: ClipSet) -> Floats:
        """float32 [clips, people]: to the direction of each person trained on."""
        cosine: Floats = self.embed(clips) @ self._centres.T
        return cosine

    @property
    def scale(self) -> float:
        """What cosines are multiplied by to become logits."""
        return self._schedule.scale


def _any(frames: Frames, rng: np.random.Generator) -> Frames:
    return np.asarray(frames[int(rng.integers(len(frames)))])


def _varied(frames: Frames, rng: np.random.Generator) -> Frames:
    frame = _any(frames, rng)
    if rng.random() < 0.5:
        frame = frame[:, ::-1]
    down, right = rng.integers(0, 2 * _SHIFT + 1, 2)
    padded = np.pad(frame, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    return padded[down : down + frame.shape[0], right : right + frame.shape[1]]


def _tensor(frames: Frames) -> torch.Tensor:
    import torch

    scaled = frames.astype(np.float32) / 127.5 - 1  # [n, 48, 48, 3], in [-1, 1]
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())
