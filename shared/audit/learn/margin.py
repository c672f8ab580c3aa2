"""Training of small networks that embed clips: additive angular margin softmax, one thread, seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import NotConvergedError

if TYPE_CHECKING:
    import torch
    from torch import nn

Ints = npt.NDArray[np.int64]
BatchOf = Callable[[Ints, np.random.Generator], "torch.Tensor"]
"""Makes the network's input for some clips, with random crops and the like."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    epochs: float = 15.0
    min_steps: int = 60
    batch: int = 32
    learning_rate: float = 3e-3
    scale: float = 20.0
    margin: float = 0.2
    """In radians, on the angle to the clip's own speaker; 0 is plain softmax on cosines."""

    def steps(self, clips: int) -> int:
        """Batches to train on: linear in the number of clips, but for the smallest sets."""
        return max(self.min_steps, round(self.epochs * clips / self.batch))


def train_with_margin(
    network: nn.Module, dimensions: int, batch_of: BatchOf, labels: Ints, *, schedule: Schedule, seed: int
) -> nn.Parameter:
    """Train `network` to put clips of one speaker at small angles (Deng et al., "ArcFace", CVPR 2019, equation 3).

    The margin grows from 0 over the first half: a small network given it at once does not start to learn.

    Returns:
        [speakers, dimensions], the direction of each speaker.

    Raises:
        NotConvergedError: the loss left the finite numbers.
    """
    import torch
    from torch.nn import functional

    rng = np.random.default_rng(seed)
    steps = schedule.steps(len(labels))
    speakers = int(labels.max()) + 1
    centres = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(speakers, dimensions)).astype(np.float32)))
    optimizer = torch.optim.AdamW([*network.parameters(), centres], lr=schedule.learning_rate, weight_decay=1e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=steps)
    network.train()
    for step in range(steps):
        chosen = _balanced(labels, schedule.batch, rng)
        target = torch.from_numpy(labels[chosen])
        cosine = functional.linear(functional.normalize(network(batch_of(chosen, rng))), functional.normalize(centres))
        margin = schedule.margin * min(1.0, 2 * step / steps)
        loss = functional.cross_entropy(schedule.scale * with_margin(cosine, target, margin), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        pace.step()
    if not bool(torch.isfinite(loss)):
        raise NotConvergedError(f"a training loss of {float(loss)}", expected="a finite loss")
    network.eval()
    return centres


def with_margin(cosine: torch.Tensor, target: torch.Tensor, margin: float) -> torch.Tensor:
    """Cosines [n, speakers] with the angle to each clip's own speaker, `target` [n], made larger by `margin`."""
    import torch

    own = cosine.gather(1, target[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    harder = torch.cos((torch.acos(own) + margin).clamp(max=float(np.pi)))
    return cosine.scatter(1, target[:, None], harder)


def _balanced(labels: Ints, batch: int, rng: np.random.Generator) -> Ints:
    """As many clips of each speaker as of any other, on average."""
    speakers = rng.permutation(np.resize(rng.permutation(np.unique(labels)), batch))
    return np.array([rng.choice(np.flatnonzero(labels == speaker)) for speaker in speakers], np.int64)
