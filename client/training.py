"""DP-SGD at a site, by Opacus, with one accountant kept over all rounds on the ledger.

Abadi et al., CCS 2016, "Deep Learning with Differential Privacy"; the unit is the clip, batches are Poisson sampled.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.client.ledger import Ledger
from moretta.shared.privacy.accounting import calibrated_noise, epsilon_spent
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study import Study

if TYPE_CHECKING:
    import torch

    from moretta.shared.models.emotion import EmotionModel

LEDGER_KIND = "dp-sgd"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features of one site's training clips: float32 [clips, ...] and class indices int64 [clips]."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one round of local training gives."""

    weights: dict[str, torch.Tensor]
    loss: float | None
    """Mean training loss; None under DP-SGD, because a loss without noise would be a release of its own."""
    epsilon: float | None
    """Spent so far by DP-SGD of all this site's models of the study; None without DP-SGD."""
    noise_multiplier: float


def plan_steps(study: Study, clips: int) -> tuple[SampledGaussian, int]:
    """The steps of one round for a site with `clips` clips, with calibrated noise, and the number of models.

    The budget is shared by the voice and the face model: noise is calibrated as if all their steps were of one model.
    """
    batch = min(study.train.batch_size, clips)
    rate = batch / clips
    steps = max(1, round(study.train.local_epochs / rate))
    models = int(study.voice.enabled) + int(study.face.enabled)
    noise = calibrated_noise(
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        rate=rate,
        steps=steps * study.train.rounds * models,
    )
    return SampledGaussian(noise_multiplier=noise, rate=rate, steps=steps), models


def spent(ledger: Ledger, study: Study) -> float:
    """Epsilon that DP-SGD has spent at this site for this study, over all models, rounds and restarts."""
    entries = ledger.entries(LEDGER_KIND, study=study.digest())
    history = [
        SampledGaussian(noise_multiplier=e["noise_multiplier"], rate=e["rate"], steps=e["steps"]) for e in entries
    ]
    return epsilon_spent(history, delta=study.privacy.delta)


def spent_after_round(ledger: Ledger, study: Study, clips: int) -> float:
    """What `spent` would say after one more round on `clips` clips: asked before it is trained."""
    entries = ledger.entries(LEDGER_KIND, study=study.digest())
    history = [
        SampledGaussian(noise_multiplier=e["noise_multiplier"], rate=e["rate"], steps=e["steps"]) for e in entries
    ]
    return epsilon_spent([*history, plan_steps(study, clips)[0]], delta=study.privacy.delta)


def train_locally(
    model: EmotionModel,
    weights: dict[str, torch.Tensor],
    data: TrainingSet,
    study: Study,
    ledger: Ledger,
    *,
    round_number: int,
    seed: int | None,
    proximal: float = 0.0,
) -> LocalUpdate:
    """Train one round. The ledger is written before the first step, so that a crash over-counts.

    Args:
        seed: for sampling and noise in simulation; None takes both from the operating system.
        proximal: FedProx' mu (Li et al., MLSys 2020): pulls the weights back to the global ones after each step. It
            looks at no clip, so it costs no budget.
    """
    import torch

    generator = torch.Generator()
    generator.manual_seed(seed if seed is not None else int.from_bytes(os.urandom(8), "little") >> 1)
    network = model.build(data.features.shape[1:])
    network.load_state_dict(weights)
    network.train()
    pull = _Pull(network, study.train.learning_rate * proximal)
    if not study.privacy.dp_sgd:
        loss = _plain_epochs(network, data, study, generator, pull)
        return LocalUpdate(dict(network.state_dict()), loss, None, 0.0)
    plan, _ = plan_steps(study, len(data))
    ledger.spend(
        LEDGER_KIND,
        study=study.digest(),
        model=f"{model.modality}/{model.name}",
        round=round_number,
        unit="clip",
        noise_multiplier=plan.noise_multiplier,
        rate=plan.rate,
        steps=plan.steps,
        delta=study.privacy.delta,
        max_grad_norm=study.privacy.max_grad_norm,
    )
    _private_steps(network, data, study, plan, generator, pull=pull)
    return LocalUpdate(dict(network.state_dict()), None, spent(ledger, study), plan.noise_multiplier)


class _Pull:
    """The proximal step: moves every parameter a share of the way back to where it started."""

    def __init__(self, network: torch.nn.Module, share: float) -> None:
        self._pairs = [(p, p.detach().clone()) for p in network.parameters()] if share else []
        self._share = share

    def __call__(self) -> None:
        for parameter, start in self._pairs:
            parameter.data.lerp_(start, min(self._share, 1.0))


def _plain_epochs(
    network: torch.nn.Module, data: TrainingSet, study: Study, generator: torch.Generator, pull: _Pull
) -> float:
    import torch

    optimizer = torch.optim.SGD(network.parameters(), lr=study.train.learning_rate)
    features, labels = _tensors(data)
    losses = []
    for _ in range(study.train.local_epochs):
        order = torch.randperm(len(data), generator=generator)
        for batch in torch.split(order, min(study.train.batch_size, len(data))):
            losses.append(_step(network, optimizer, features[batch], labels[batch]))
            pull()
    return float(np.mean(losses))


def _private_steps(
    network: torch.nn.Module,
    data: TrainingSet,
    study: Study,
    plan: SampledGaussian,
    generator: torch.Generator,
    *,
    pull: _Pull,
) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of its own non-cryptographic generator on every import
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer
    private = GradSampleModule(network)
    features, labels = _tensors(data)
    optimizer = DPOptimizer(
        torch.optim.SGD(private.parameters(), lr=study.train.learning_rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=study.privacy.max_grad_norm,
        expected_batch_size=plan.rate * len(data),
        generator=generator,
    )
    for _ in range(plan.steps):
        chosen = torch.rand(len(data), generator=generator) < plan.rate
        if bool(chosen.any()):
            _step(private, optimizer, features[chosen], labels[chosen])
        else:
            _noise_only_step(private, optimizer)
        pull()
    private.to_standard_module()


def _step(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, features: torch.Tensor, labels: torch.Tensor
) -> float:
    from torch.nn.functional import cross_entropy

    optimizer.zero_grad()
    # Opacus' hooks see the gradient of a layer only where its input asks for one
    loss = cross_entropy(network(features.requires_grad_()), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _noise_only_step(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """An empty Poisson batch still releases noise: leaving the step out would tell that the batch was empty."""
    optimizer.zero_grad()
    for parameter in network.parameters():
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
    optimizer.step()


def _tensors(data: TrainingSet) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.from_numpy(data.features), torch.from_numpy(data.labels)
