"""An upper bound of mutual information that can be trained against: vCLUB.

Cheng et al., "CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information", ICML 2020: with a model q(y | x) of the
conditional distribution,

    I(x; y) <= E[log q(y | x)] - E[log q(y' | x)],   y' drawn apart from x,

where q is the true conditional, or nearer to it than the marginals are (theorem 3.2 there). A q that has learnt little
bounds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionalGaussian(nn.Module):
    """q(y | x): a Gaussian whose mean is linear in x, and whose variances are the same at every x.

    It learns from few samples without becoming more certain than it may be, which a network does not.

    Args:
        inputs: values of x.
        outputs: values of y.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._mean = nn.Linear(inputs, outputs)
        self._log_variance = nn.Parameter(torch.zeros(outputs))
        nn.init.zeros_(self._mean.weight)
        nn.init.zeros_(self._mean.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, inputs] -> means [n, outputs] and logarithms of variances [outputs]."""
        return self._mean(x), self._log_variance

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log q(y | x) of pairs, [n], up to a constant."""
        mean, log_variance = self(x)
        gain: Tensor = -0.5 * ((y - mean).square() / log_variance.exp() + log_variance).sum(dim=1)
        return gain


def club(mean: Tensor, log_variance: Tensor, y: Tensor, given: Tensor | None = None) -> Tensor:
    """The bound from samples, every y' being used with every x: that takes their first two moments only.

    Args:
        mean: [n, d], of q(y | x) at each x.
        log_variance: [d] or [n, d], of the same.
        y: [n, d], the one that goes with each x.
        given: int64 [n]; if told, the bound is of I(x; y | given).

    Returns:
        Nats, a scalar. An average of samples: it may come out below 0 where there is no information.
    """
    groups = torch.zeros(len(y), dtype=torch.int64) if given is None else torch.unique(given, return_inverse=True)[1]
    share = nn.functional.one_hot(groups).to(y.dtype)  # [n, groups]
    share = share / share.sum(dim=0)
    first, second = (share.mT @ power for power in (y, y.square()))  # [groups, d]
    together = (y - mean).square()
    apart = second[groups] - 2 * mean * first[groups] + mean.square()
    return (0.5 * (apart - together) / log_variance.exp()).sum(dim=1).mean()
