"""How a site moves its weights by gradients: SGD, or Adam (Kingma and Ba, ICLR 2015), which starts anew each round.

Under DP-SGD both see nothing but gradients that were clipped, summed and disturbed, so neither costs anything more.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from moretta.shared.study.sections import OptimizerName


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """One without a state yet: what it learns of gradients stays at the site, and is forgotten after the round."""
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    return torch.optim.SGD(parameters, lr=learning_rate)
