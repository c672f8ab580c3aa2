"""How networks learn to put clips of one speaker at small angles: the loss, its schedule, and what they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.core.array_types import Float32, Int64

if TYPE_CHECKING:
    import torch
    from torch import nn

BatchOf = Callable[[Int64, np.random.Generator], "torch.Tensor"]
"""Makes the network's input for some clips, with random crops and the like."""
FEWEST_FRAMES = 16
"""Shortest input of the networks of sequences, in frames; a clip's code is one frame, which is repeated."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained."""

    margin: float
    """Margin in radians on the angle to the clip's own speaker; 0 is plain softmax on cosines."""
    epochs: float = 15.0
    min_steps: int = 60
    batch: int = 32
    learning_rate: float = 3e-3
    scale: float = 20.0


def train_with_margin(
    network: nn.Module, dimensions: int, batch_of: BatchOf, labels: Int64, *, schedule: Schedule, seed: int
) -> Float32:
    """Train `network` to put clips of one speaker at small angles (Deng et al., "ArcFace", CVPR 2019, equation 3).

    The margin grows from 0 over the first half: a small network given it at once does not start to learn.

    Returns:
        [speakers, dimensions], the direction of each speaker, of length 1.

    Raises:
        NotConvergedError: the loss left the finite numbers.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear, normalize

    rng, device = np.random.default_rng(seed), next(network.parameters()).device
    # Linear in the number of clips, but for the smallest sets.
    steps = max(schedule.min_steps, round(schedule.epochs * len(labels) / schedule.batch))
    size = (int(labels.max()) + 1, dimensions)
    centres = torch.nn.Parameter(torch.from_numpy(rng.normal(size=size).astype(np.float32)).to(device))
    optimizer = torch.optim.AdamW([*network.parameters(), centres], lr=schedule.learning_rate, weight_decay=1e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=steps)
    network.train()
    for step in range(steps):
        chosen = _balanced(labels, schedule.batch, rng)
        target = torch.from_numpy(labels[chosen]).to(device)
        cosine = linear(normalize(network(batch_of(chosen, rng).to(device))), normalize(centres))  # [batch, speakers]
        own = cosine.gather(1, target[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        margin = schedule.margin * min(1.0, 2 * step / steps)
        harder = torch.cos((torch.acos(own) + margin).clamp(max=float(np.pi)))
        loss = cross_entropy(schedule.scale * cosine.scatter(1, target[:, None], harder), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        pace.step()
    if not bool(torch.isfinite(loss)):
        raise NotConvergedError(f"a training loss of {float(loss)}", expected="a finite loss")
    network.eval()
    with torch.inference_mode():
        return np.asarray(normalize(centres.detach()).cpu().numpy())


def _balanced(labels: Int64, batch: int, rng: np.random.Generator) -> Int64:
    """A batch with as many clips of each speaker as of any other, on average."""
    speakers = rng.permutation(np.resize(rng.permutation(np.unique(labels)), batch))
    return np.array([rng.choice(np.flatnonzero(labels == speaker)) for speaker in speakers], np.int64)


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of MFCC or codes, each [steps, coefficients], as networks take them: equally long, and on one scale."""

    of: Sequence[Float32]
    mean: Float32
    scale: Float32
    frames: int
    """Frames of each crop."""

    @classmethod
    def scaled(cls, of: Sequence[Float32], frames: int) -> Self:
        """Sequences on the scale of all their steps together. Crops are no longer than the longest sequence."""
        together = np.concatenate(of)
        return cls(of, together.mean(0), together.std(0) + 1e-3, min(frames, max(FEWEST_FRAMES, *map(len, of))))

    def tensor(self, crops: Sequence[Float32]) -> torch.Tensor:
        """Crops of one length, [n, coefficients, steps]."""
        import torch

        scaled = ((np.stack(crops) - self.mean) / self.scale).astype(np.float32)
        return torch.from_numpy(scaled.transpose(0, 2, 1).copy())

    def random_crops(self, chosen: Int64, rng: np.random.Generator) -> list[Float32]:
        """A crop from anywhere in each of these clips; a short clip is repeated."""
        found = []
        for sequence in (self.of[i] for i in chosen):
            start = int(rng.integers(max(len(sequence) - self.frames, 0) + 1))
            found.append(middle(sequence, self.frames) if not start else sequence[start : start + self.frames])
        return found


def middle(sequence: Float32, frames: int) -> Float32:
    """The middle of a long sequence; a short one is repeated."""
    if len(sequence) < frames:
        return np.take(sequence, np.arange(frames) % len(sequence), axis=0)
    start = (len(sequence) - frames) // 2
    return sequence[start : start + frames]
