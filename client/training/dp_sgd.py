"""The steps of DP-SGD: per-example gradients, clipped for each sampled unit, summed, and disturbed.

Abadi et al., CCS 2016. Where the unit is the speaker, all clips of a sampled speaker are in the batch and the mean of
their gradients is what is clipped: a speaker is one example, as a user is in McMahan et al., ICLR 2018.

A norm cut passes NaN on, and noise does too. So a unit whose gradient is not finite, or too large for its norm to be
computed, adds nothing to the sum: whatever the weights are, each unit adds a vector of the clipping norm at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training.example_gradients import ExampleGradients, Losses
from moretta.shared.core.array_types import Int64
from moretta.shared.models.adversaries import cross_entropies
from moretta.shared.models.emotion import Standardise
from moretta.shared.models.optimizers import make_optimizer
from moretta.shared.privacy.noise import SystemNoise, on_grid
from moretta.shared.study.sections import OptimizerName

LARGEST_GRADIENT = 1e15
"""Largest value of a gradient. The sum of squares then stays within float32, and the clipping factor is precise."""
AT_ONCE = 512
"""Clips whose gradients are in memory at once: a study may ask for a batch of thousands, of a large model."""
_BESIDE_NORM = 1e-6
"""Added to a norm before it divides, as Opacus does."""


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Training data as tensors."""

    features: torch.Tensor
    """[clips, ...]"""
    labels: torch.Tensor
    """int64 [clips]; or [clips, ...], what else the loss compares with."""
    owners: Int64
    """[clips]: the unit that each clip belongs to, counted from 0."""


class Randomness:
    """Chooses and disturbs, by the operating system's cryptographic generator.

    Opacus' secure mode needs a package that is not kept up any more; torch's generator is a Mersenne Twister, whose
    state can be computed from what it gave.
    """

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """A Poisson sample: bool [units], each true with probability `rate`, by 52 random bits of its own."""
        return torch.from_numpy(SystemNoise().uniform((units,)) < rate)

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:
        """Gradients with Gaussian noise of standard deviation `scale` on every value: a sum of four draws in double
        precision, rounded with the gradient to a grid that depends on neither."""
        exact = torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        disturbed = torch.from_numpy(on_grid(exact + SystemNoise().private_normal(scale, exact.shape), scale))
        parts = torch.split(disturbed, [gradient.numel() for gradient in gradients])
        return [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]

    def order(self, size: int) -> torch.Tensor:
        """A permutation, int64 [size], by random keys: for training without DP-SGD."""
        return torch.from_numpy(SystemNoise().uniform((size,)).argsort())


class SeededRandomness(Randomness):
    """By torch's generator, for simulation and tests: anybody with the seed can subtract the noise."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """A Poisson sample."""
        return torch.rand(units, generator=self._generator) < rate

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:
        """Gradients with noise."""
        return [torch.normal(gradient, scale, generator=self._generator) for gradient in gradients]

    def order(self, size: int) -> torch.Tensor:
        """A permutation."""
        return torch.randperm(size, generator=self._generator)


class Noiseless(Randomness):
    """Everybody, and no noise: for training that guarantees nothing, and says so."""

    def chosen(self, units: int, rate: float) -> torch.Tensor:  # noqa: ARG002
        """All of them."""
        return torch.ones(units, dtype=torch.bool)

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:  # noqa: ARG002
        """The gradients without noise."""
        return list(gradients)


Sums = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], list[torch.Tensor]]
"""Features, labels and owners [clips in the batch] -> of each parameter the sum of all units' gradients, each cut.

Owners are None where each clip is a unit."""


def private_steps(
    network: torch.nn.Module,
    examples: TrainingExamples,
    plan: TrainingPlan,
    randomness: Randomness,
    *,
    max_grad_norm: float,
    learning_rate: float,
    optimizer: OptimizerName = "sgd",
    after_step: Callable[[], None] = lambda: None,
    losses: Losses = cross_entropies,
) -> None:
    """Make one round's steps on `network`, in place. `losses` gives one loss for each example, of it alone.

    An empty Poisson batch still releases noise: leaving the step out would reveal that the batch was empty.
    Ghost clipping (Li et al., ICLR 2022) was removed: docs/results/rejected.md has why.
    """
    steps = make_optimizer(optimizer, network.parameters(), learning_rate)
    scale, parameters = plan.round.noise_multiplier * max_grad_norm, list(network.parameters())
    device, owners = examples.labels.device, torch.from_numpy(examples.owners)
    alone = torch.equal(owners, torch.arange(plan.units))  # each clip is a unit
    features, trained = _fixed_part_of(network, examples.features)
    with _example_sums(trained, max_grad_norm, losses) as sums:
        for _ in range(plan.round.steps):
            chosen = randomness.chosen(plan.units, plan.round.rate)
            batch = torch.nonzero(chosen if alone else chosen[owners]).squeeze(1)
            part, labels = (each.index_select(0, batch.to(device)) for each in (features, examples.labels))
            summed = sums(part, labels, None if alone else owners[batch].to(device))
            with torch.no_grad():  # noise is drawn in float64, which not all GPUs have
                disturbed = randomness.noisy([each.cpu() for each in summed], scale)
                for parameter, noisy in zip(parameters, disturbed, strict=True):
                    parameter.grad = noisy.to(device) / plan.expected_batch
            steps.step()
            after_step()


def _fixed_part_of(network: torch.nn.Module, features: torch.Tensor) -> tuple[torch.Tensor, torch.nn.Module]:
    """The features behind the layers that come before the first trained one, and the layers after them."""
    if not isinstance(network, torch.nn.Sequential):
        return features, network
    first = next(index for index, layer in enumerate(network) if not isinstance(layer, Standardise | torch.nn.Flatten))
    with torch.no_grad():
        return network[:first](features), network[first:]


@contextmanager
def _example_sums(network: torch.nn.Module, norm: float, losses: Losses) -> Iterator[Sums]:
    with ExampleGradients(network, losses) as gradients_of:

        def sums(features: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor | None) -> list[torch.Tensor]:
            parts = map(gradients_of, torch.split(features, AT_ONCE), torch.split(labels, AT_ONCE))
            if owners is not None:
                return _clipped_sums(_average_over_owners(parts, owners), norm)
            first, *others = (_clipped_sums(gradients, norm) for gradients in parts)
            return [torch.stack(each).sum(dim=0) for each in zip(first, *others, strict=True)] if others else first

        yield sums


def _average_over_owners(parts: Iterable[Sequence[torch.Tensor]], owners: torch.Tensor) -> list[torch.Tensor]:
    """Per-clip gradients, parts of [clips, ...], to the mean of each owner's, [owners in the batch, ...]."""
    _, places, counts = torch.unique(owners, return_inverse=True, return_counts=True)
    sums: list[torch.Tensor] = []
    for gradients, place in zip(parts, torch.split(places, AT_ONCE), strict=True):
        sums = sums or [each.new_zeros((len(counts), *each.shape[1:])) for each in gradients]
        for total, each in zip(sums, gradients, strict=True):
            total.index_add_(0, place, each)
    return [each / counts.reshape(-1, *(1,) * (each.dim() - 1)) for each in sums]


def _clipped_sums(gradients: Sequence[torch.Tensor], norm: float) -> list[torch.Tensor]:
    """Gradients [units, ...] of each parameter, those of a unit together cut to a norm, summed over units."""
    norms = _norms(gradients)
    if not bool((norms <= LARGEST_GRADIENT).all()):  # false for NaN
        gradients = _without_failed(gradients)
        norms = _norms(gradients)
    factors = (norm / (norms + _BESIDE_NORM)).clamp(max=1.0).view(1, 1, -1)
    return [torch.bmm(factors, each.flatten(1).unsqueeze(0)).view(each.shape[1:]) for each in gradients]


def _norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """[units], over all parameters."""
    of_parameters = [torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients]
    norms: torch.Tensor = torch.linalg.vector_norm(torch.stack(of_parameters, dim=1), dim=1)
    return norms


def _without_failed(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Zeros in the place of all gradients, [units, ...], of a unit of which one value cannot be."""
    sound = torch.stack([each.flatten(1).abs().amax(dim=1) <= LARGEST_GRADIENT for each in gradients]).all(dim=0)
    kept = [sound.reshape(-1, *(1,) * (each.dim() - 1)) for each in gradients]
    return [torch.where(keep, each, torch.zeros_like(each)) for keep, each in zip(kept, gradients, strict=True)]
