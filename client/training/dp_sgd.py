"""The steps of DP-SGD, on Opacus: per-example gradients, clipped for each sampled unit, summed, and disturbed.

Abadi et al., CCS 2016. Where the unit is the speaker, all clips of a sampled speaker are in the batch and the mean of
their gradients is what is clipped: a speaker is one example, as a user is in McMahan et al., ICLR 2018.

A norm cut passes NaN on, and noise does too. So a unit whose gradient is not finite, or too large for its norm to be
computed, adds nothing to the sum: whatever the weights are, each unit adds a vector of the clipping norm at most.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.planning import TrainingPlan
from moretta.shared.privacy.noise import SystemNoise, on_grid
from moretta.shared.study.sections import Clipping

LARGEST_GRADIENT = 1e15
"""Of one value. The squares of so many add up within float32, and the factor that cuts them keeps its precision."""


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Training data as tensors."""

    features: torch.Tensor
    """[clips, ...]"""
    labels: torch.Tensor
    """int64 [clips]"""
    owners: npt.NDArray[np.int64]
    """[clips]: the unit that each clip belongs to, counted from 0."""


class Randomness:
    """Chooses and disturbs, by the operating system's cryptographic generator.

    Opacus' secure mode needs a package that is not kept up any more; torch's generator is a Mersenne Twister, whose
    state can be computed from what it gave.
    """

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """A Poisson sample: bool [units], each true with probability `rate`, by 52 random bits of its own."""
        return torch.from_numpy(SystemNoise().uniform((units,)) < rate)

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """A gradient with Gaussian noise of standard deviation `scale` on every value: a sum of four draws in double
        precision, rounded with the gradient to a grid that depends on neither."""
        values = gradient.double().numpy() + SystemNoise().private_normal(scale, tuple(gradient.shape))
        return torch.from_numpy(on_grid(values, scale))

    def order(self, size: int) -> torch.Tensor:
        """A permutation, int64 [size], by random keys: for training without DP-SGD."""
        return torch.from_numpy(SystemNoise().uniform((size,)).argsort())


class SeededRandomness(Randomness):
    """By torch's generator, for simulation and tests. Who knows the seed can take the noise away again."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """A Poisson sample."""
        return torch.rand(units, generator=self._generator) < rate

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """A gradient with noise."""
        return gradient + torch.normal(0.0, scale, gradient.shape, generator=self._generator, dtype=gradient.dtype)

    def order(self, size: int) -> torch.Tensor:
        """A permutation."""
        return torch.randperm(size, generator=self._generator)


class Noiseless(Randomness):
    """Everybody, and no noise: for training that guarantees nothing, and says so."""

    def chosen(self, units: int, rate: float) -> torch.Tensor:  # noqa: ARG002
        """All of them."""
        return torch.ones(units, dtype=torch.bool)

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:  # noqa: ARG002
        """As it is."""
        return gradient


def private_steps(
    network: torch.nn.Module,
    examples: TrainingExamples,
    plan: TrainingPlan,
    randomness: Randomness,
    *,
    max_grad_norm: float,
    learning_rate: float,
    after_step: Callable[[], None] = lambda: None,
    clipping: Clipping = "per-example",
) -> None:
    """Make one round's steps on `network`, in place.

    `ghost` clipping keeps the norms of the gradients alone (Li et al., ICLR 2022): a second pass sums them, cut.
    """
    ghost, scale = clipping == "ghost", plan.round.noise_multiplier * max_grad_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of its own non-cryptographic generator on every import
        from opacus import GradSampleModule
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

        if ghost:
            private = GradSampleModuleFastGradientClipping(network, max_grad_norm=max_grad_norm)
        else:
            private = GradSampleModule(network)
        optimizer = (DPOptimizerFastGradientClipping if ghost else DPOptimizer)(
            torch.optim.SGD(network.parameters(), lr=learning_rate),
            noise_multiplier=plan.round.noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=plan.expected_batch,
        )

    def disturb() -> None:
        """In the place of Opacus' own, whose secure mode is not to be had: noise is drawn once here."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = randomness.noisy(parameter.summed_grad, scale).view_as(parameter)

    optimizer.add_noise = disturb
    owners = torch.from_numpy(examples.owners)
    for _ in range(plan.round.steps):
        batch = randomness.chosen(plan.units, plan.round.rate)[owners]  # bool [clips]
        optimizer.zero_grad()
        if ghost:
            _ghost_gradients(private, optimizer, examples, batch)
        else:
            _example_gradients(private, examples, batch)
        if plan.units < len(owners):
            _average_over_owners(private, owners[batch])
        if not ghost:
            _leave_out_failed(private)
        optimizer.step()
        after_step()
    private.to_standard_module()


def _example_gradients(network: torch.nn.Module, examples: TrainingExamples, batch: torch.Tensor) -> None:
    """Fill `grad_sample`, [clips in the batch, ...], of every parameter.

    An empty Poisson batch still releases noise: leaving the step out would reveal that the batch was empty.
    """
    if not bool(batch.any()):
        for parameter in network.parameters():
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        return
    # Opacus' hooks see the gradient of a layer only where its input asks for one
    features = examples.features[batch].requires_grad_()
    cross_entropy(network(features), examples.labels[batch]).backward()  # type: ignore[no-untyped-call]


def _ghost_gradients(private: Any, optimizer: Any, examples: TrainingExamples, batch: torch.Tensor) -> None:
    """Fill `grad` of every parameter with the sum of cut gradients; those that failed are left out of the sum."""
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    if not bool(batch.any()):
        for parameter in private.parameters():
            parameter.grad = parameter.new_zeros(parameter.shape)
        return
    features = examples.features[batch].requires_grad_()
    losses = cross_entropy(private(features), examples.labels[batch], reduction="none")
    DPTensorFastGradientClipping(private, optimizer, losses).backward()
    sound = private.per_sample_gradient_norms <= LARGEST_GRADIENT  # false for NaN
    if not bool(sound.all()):
        optimizer.zero_grad()
        kept = batch.clone()
        kept[batch] = sound
        _ghost_gradients(private, optimizer, examples, kept)


def _leave_out_failed(network: torch.nn.Module) -> None:
    """Zeros in the place of all gradients, [units in the batch, ...], of a unit of which one value cannot be."""
    grads = [parameter.grad_sample for parameter in network.parameters()]  # type: ignore[attr-defined]
    sound = torch.stack([grad.flatten(1).abs().amax(dim=1) <= LARGEST_GRADIENT for grad in grads]).all(dim=0)
    if bool(sound.all()):
        return
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        kept = sound.reshape(-1, *(1,) * parameter.dim())
        parameter.grad_sample = torch.where(kept, grad, torch.zeros_like(grad))  # type: ignore[attr-defined]


def _average_over_owners(network: torch.nn.Module, owners: torch.Tensor) -> None:
    """Per-clip gradients, [clips, ...], to the mean of each owner's, [owners in the batch, ...]."""
    _, places, counts = torch.unique(owners, return_inverse=True, return_counts=True)
    for parameter in network.parameters():
        of_clips = parameter.grad_sample  # type: ignore[attr-defined]
        sums = of_clips.new_zeros((len(counts), *parameter.shape)).index_add_(0, places, of_clips)
        parameter.grad_sample = sums / counts.reshape(-1, *(1,) * parameter.dim())  # type: ignore[attr-defined]
