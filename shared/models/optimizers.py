"""Steps down a loss, and optimizers of sites: SGD, or Adam (Kingma and Ba, ICLR 2015), which starts anew each round.

Under DP-SGD both see nothing but gradients that were clipped, summed and disturbed, so neither costs anything more.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from moretta.shared.study.sections import OptimizerName

_BETAS = (0.5, 0.999)
"""Betas of Adam for networks that are trained against each other."""


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """One without a state yet: what it learns of gradients stays at the site, and is forgotten after the round."""
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    return torch.optim.SGD(parameters, lr=learning_rate)


def step_down(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    *,
    longest: float | None = None,
) -> None:
    """One step down this loss, of a gradient that is cut to the norm `longest`, if there is any; then of the rate."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    if longest is not None:
        nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], longest)
    optimizer.step()
    if schedule is not None:
        schedule.step()


class Descent:
    """Adam at a rate that is constant, then falls linearly to zero over the second half of the steps."""

    def __init__(self, weights: Iterable[nn.Parameter], steps: int, rate: float) -> None:
        self.optimizer = torch.optim.Adam(weights, lr=rate, betas=_BETAS)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, 2 * (1 - step / steps))
        )

    def __call__(self, loss: Tensor) -> float:
        """One step down this loss, which is returned."""
        step_down(loss, self.optimizer, self._schedule)
        return float(loss.detach())
