"""One small network for sequences of both modalities, and how it is trained centrally, with varied examples.

Convolutions over time and attentive pooling. There is no recurrence and no statistic of a batch, so that the gradient
of every example can be computed by itself, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moretta.shared.core.workers import seeded

if TYPE_CHECKING:
    from moretta.shared.core.array_types import Float32, Int64

WIDTH, GROUPS = 64, 8
LONG = 64
"""Steps beyond which a convolution halves their number."""
_LEAST_VARIANCE = 1e-4


class AttentiveStatistics(nn.Module):
    """Weighted mean and deviation over time (Okabe, Koshinaka and Shinoda, Interspeech 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Conv1d(channels, 32, 1), nn.Tanh(), nn.Conv1d(32, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, time] to [n, 2 * channels]."""
        weight = self.attention(x).softmax(dim=2)
        mean = (weight * x).sum(2)
        variance = (weight * x**2).sum(2) - mean**2
        return torch.cat([mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()], dim=1)


def sequence_layers(coefficients: int, steps: int, classes: int) -> list[nn.Module]:
    """[n, coefficients, steps] to [n, classes]: four convolutions, each normalized by groups, and attentive pooling.

    A long sequence is halved, at most twice. Weights: 63,142 for 13 coefficients. `Dropout` is off, unless somebody
    sets its share: what it drops comes from torch's own generator.
    """

    def layer(inside: int, kernel: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv1d(inside, WIDTH, kernel, stride=stride, padding=kernel // 2)
        return [convolution, nn.GroupNorm(GROUPS, WIDTH), nn.ReLU()]

    strides = [2 if steps > LONG else 1, 2 if steps > 2 * LONG else 1]
    return [
        *layer(coefficients, 5, strides[0]),
        *layer(WIDTH, 5, strides[1]),
        *layer(WIDTH, 5, 1),
        *layer(WIDTH, 3, 1),
        nn.Dropout(0.0),
        AttentiveStatistics(WIDTH),
        nn.Dropout(0.0),
        nn.Linear(2 * WIDTH, classes),
    ]


@dataclass(frozen=True)
class Varying:
    """How much examples [coefficients, steps] differ from one epoch to the next; 0 everywhere leaves them as they are.

    Masks in time and along the coefficients are those of SpecAugment (Park et al., Interspeech 2019, section 2).
    """

    shift: float = 0.125
    """Largest shift in either direction, as a share of the steps."""
    time_mask: float = 0.15
    """Longest of two masks of time, as a share of the steps."""
    coefficient_mask: float = 0.17
    """Widest mask of coefficients, as a share of these."""
    stretch: float = 0.0
    """How much faster or slower half of the examples become at most, as a share."""
    bands: int = 0
    """Largest shift of mel bands, in bands; 0 for other inputs."""

    def __call__(self, batch: Float32, rng: np.random.Generator) -> Float32:
        """A varied copy of [n, coefficients, steps]; what is masked takes the mean of its example's coefficient."""
        made = batch.copy()
        coefficients, steps = batch.shape[1:]
        for example in made:
            if self.stretch and rng.random() < 0.5:
                example[:] = _stretched(example, 1 + float(rng.uniform(-self.stretch, self.stretch)))
            if self.bands:
                places = np.arange(coefficients) + int(rng.integers(-self.bands, self.bands + 1))
                example[:] = example[np.clip(places, 0, coefficients - 1)]
            mean = example.mean(axis=1, keepdims=True)
            furthest = int(self.shift * steps)
            example[:] = np.roll(example, int(rng.integers(-furthest, furthest + 1)), axis=1)
            for _ in range(2):
                start, length = _span(steps, self.time_mask, rng)
                example[:, start : start + length] = mean
            start, length = _span(coefficients, self.coefficient_mask, rng)
            example[start : start + length] = mean[start : start + length]
        return made


def _stretched(example: Float32, factor: float) -> Float32:
    """[n, steps], its middle so many times as long; what is missing at the ends repeats the first and last step."""
    steps = example.shape[1]
    places = (np.arange(steps) - steps / 2) / factor + steps / 2
    return np.asarray(example[:, np.clip(np.round(places), 0, steps - 1).astype(int)])


def _span(size: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(int(share * size) + 1))
    return int(rng.integers(size - length + 1)), length


def train_centrally(
    network: nn.Module,
    features: Float32,
    labels: Int64,
    *,
    epochs: int,
    seed: int,
    varying: Varying | None,
    dropout: float = 0.0,
    batch: int = 32,
    learning_rate: float = 3e-3,
) -> None:
    """Train a network in place on features [n, coefficients, steps] and labels [n], by AdamW with one cycle.

    The same seed gives the same weights on the same processor with one thread. `varying`: None shows every example as
    it is. `dropout`: share of what is dropped before and after pooling.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    rng = np.random.default_rng(seed)
    steps = epochs * -(-len(labels) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    network.train()
    with seeded(seed):
        for _ in range(epochs):
            order = rng.permutation(len(labels))
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                shown = features[chosen] if varying is None else varying(features[chosen], rng)
                optimizer.zero_grad()
                loss = cross_entropy(network(torch.from_numpy(shown)), torch.from_numpy(labels[chosen]))
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
                pace.step()
    network.eval()
