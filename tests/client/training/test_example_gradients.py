"""DP-SGD clips each clip's own gradient, in every model's layers: compared with clips taken one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training import dp_sgd
from moretta.client.training.dp_sgd import (
    LARGEST_GRADIENT,
    Noiseless,
    SeededRandomness,
    TrainingExamples,
    private_steps,
)
from moretta.client.training.example_gradients import ExampleGradients
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.dp_sgd import SampledGaussian

CLASSES = 6
SHAPES: dict[tuple[Any, str], tuple[int, ...]] = {
    ("voice", "statistics"): (78,),
    ("voice", "layered"): (78,),
    ("voice", "cnn"): (13, 256),
    ("voice", "crnn"): (13, 64),
    ("face", "gradients"): (576,),
    ("face", "cnn"): (3, 48, 48),
    ("face", "sequence"): (288, 16),
    ("fusion", "gate"): (2 * CLASSES + 2,),
}


def _network(model: tuple[Any, str], seed: int) -> torch.nn.Module:
    """With weights that differ from those at the start, which are 0 in places."""
    torch.manual_seed(seed)
    network = emotion_model(*model).build(SHAPES[model])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def _clips(model: tuple[Any, str], seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    rows = 2 * rng.standard_normal((count, *SHAPES[model])).astype(np.float32)
    if model[0] == "fusion":  # probabilities of both models, one of which some clips lack
        rows[:, : 2 * CLASSES] = np.log(rng.dirichlet(np.ones(CLASSES), (count, 2)).reshape(count, -1))
        rows[:, 2 * CLASSES :] = np.array([[1, 1], [1, 1], [1, 0], [0, 1]])[rng.integers(0, 4, count)]
    return torch.from_numpy(rows), torch.from_numpy(rng.integers(0, CLASSES, count))


def _one_at_a_time(network: torch.nn.Module, rows: torch.Tensor, labels: torch.Tensor) -> list[list[torch.Tensor]]:
    """[clips][parameters]"""
    found = []
    for clip in range(len(labels)):
        network.zero_grad()
        cross_entropy(network(rows[clip : clip + 1]), labels[clip : clip + 1]).backward()  # type: ignore[no-untyped-call]
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()])
    return found


@pytest.mark.parametrize("model", SHAPES, ids="/".join)
@pytest.mark.parametrize(("seed", "count"), [(1, 1), (2, 3), (3, 16), (4, 21)])
def test_each_clip_has_the_gradient_that_it_has_alone(model: tuple[Any, str], seed: int, count: int) -> None:
    network, (rows, labels) = _network(model, seed), _clips(model, seed, count)
    expected = _one_at_a_time(network, rows, labels)
    with ExampleGradients(network) as gradients:
        found = gradients(rows, labels)
    for clip in range(count):
        for each, alone in zip(found, expected[clip], strict=True):
            torch.testing.assert_close(each[clip], alone, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize(("padding", "dilation", "stride"), [(0, 1, 1), (2, 1, 2), (1, 2, 3)])
@pytest.mark.parametrize("layer", [torch.nn.Conv1d, torch.nn.Conv2d])
def test_every_kind_of_convolution_has_its_clips_gradients(
    layer: Any, padding: int, dilation: int, stride: int
) -> None:
    torch.manual_seed(7)
    network = torch.nn.Sequential(
        layer(2, 3, 3, padding=padding, dilation=dilation, stride=stride),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(CLASSES),
    )
    rows = torch.randn(5, 2, *(13,) * (1 if layer is torch.nn.Conv1d else 2))
    network(rows)
    labels = torch.arange(5)
    expected = _one_at_a_time(network, rows, labels)
    with ExampleGradients(network) as gradients:
        found = gradients(rows, labels)
    for clip in range(5):
        for each, alone in zip(found, expected[clip], strict=True):
            torch.testing.assert_close(each[clip], alone, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("model", [model for model in SHAPES if model[1] != "crnn"], ids="/".join)
def test_gradients_are_those_of_opacus_hooks(model: tuple[Any, str]) -> None:
    """So that a study with a seed gives what it gave when Opacus' hooks computed them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule

    network, (rows, labels) = _network(model, 5), _clips(model, 5, 11)
    with ExampleGradients(network) as gradients:
        found = gradients(rows, labels)
    cross_entropy(GradSampleModule(network)(rows.requires_grad_()), labels).backward()  # type: ignore[no-untyped-call]
    for each, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(each, parameter.grad_sample, atol=1e-6, rtol=1e-5)  # type: ignore[attr-defined]


def test_a_layer_that_keeps_statistics_of_a_batch_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="buffers"):
        ExampleGradients(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 10 * LARGEST_GRADIENT])
def test_a_clip_whose_gradient_cannot_be_adds_nothing_and_the_others_all_they_have(broken: float) -> None:
    rows, labels = _clips(("voice", "statistics"), 3, 6)
    spoiled = rows.clone()
    spoiled[2] = broken
    weights = []
    for features, chosen in ((spoiled, torch.arange(6)), (rows, torch.tensor([0, 1, 3, 4, 5]))):
        network = torch.nn.Sequential(torch.nn.Linear(78, CLASSES))  # nothing before it cuts the features
        torch.nn.init.zeros_(network[0].weight)
        torch.nn.init.zeros_(network[0].bias)
        plan = TrainingPlan(
            SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1), 6, rounds=1, models=1, most_clips=1
        )
        examples = TrainingExamples(features[chosen], labels[chosen], np.arange(len(chosen)))
        plan = TrainingPlan(plan.round, len(chosen), rounds=1, models=1, most_clips=1)
        private_steps(network, examples, plan, Noiseless(), max_grad_norm=1.0, learning_rate=float(len(chosen)))
        weights.append(network[0].weight.detach())
    torch.testing.assert_close(*weights)
    assert float(weights[0].norm()) > 0.1


@pytest.mark.parametrize(
    "owners", [np.arange(11), np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 0])], ids=["clip", "speaker"]
)
def test_a_large_batch_has_few_clips_in_memory_at_once_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, owners: Any
) -> None:
    model, most, weights = ("voice", "layered"), list[int](), []
    rows, labels = _clips(model, 1, 11)
    units = int(owners.max()) + 1
    plan = TrainingPlan(SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1), units, 1, 1, most_clips=5)
    gradients_of = ExampleGradients.__call__

    def counted(self: ExampleGradients, features: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        most.append(len(features))
        return gradients_of(self, features, labels)

    monkeypatch.setattr(ExampleGradients, "__call__", counted)
    for at_once in (11, 3):
        monkeypatch.setattr(dp_sgd, "AT_ONCE", at_once)
        network, examples = _network(model, 1), TrainingExamples(rows, labels, owners)
        private_steps(network, examples, plan, Noiseless(), max_grad_norm=1.0, learning_rate=1.0)
        weights.append([parameter.detach() for parameter in network.parameters()])
    assert most == [11, 3, 3, 3, 2]
    torch.testing.assert_close(*weights)


def test_hooks_are_gone_afterwards() -> None:
    network, (rows, labels) = _network(("voice", "layered"), 1), _clips(("voice", "layered"), 1, 4)
    plan = TrainingPlan(SampledGaussian(noise_multiplier=1.0, rate=0.5, steps=2), 4, rounds=1, models=1, most_clips=1)
    examples = TrainingExamples(rows, labels, np.arange(4))
    private_steps(network, examples, plan, SeededRandomness(1), max_grad_norm=1.0, learning_rate=0.1)
    assert not any(layer._forward_hooks for layer in network.modules())


class _Constant(Noiseless):
    """Gives the same for any gradients: what is left of clips comes past the noise."""

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:
        return [torch.full_like(gradient, 0.5 if index else -2.0) for index, gradient in enumerate(gradients)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_a_step_makes_of_clips_depends_on_the_disturbed_sums_alone(optimizer: Any) -> None:
    model, after = ("voice", "layered"), []
    plan = TrainingPlan(SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=3), 8, rounds=1, models=1, most_clips=1)
    for seed in (1, 2):
        network, (rows, labels) = _network(model, 1), _clips(model, seed, 8)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        examples = TrainingExamples(rows, labels, np.arange(8))
        private_steps(network, examples, plan, _Constant(), max_grad_norm=1.0, learning_rate=0.01, optimizer=optimizer)
        after.append([parameter.detach() for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))
    moves = [(new - old).mean() for new, old in zip(after[0], before, strict=True)]
    expected = [0.03, -0.03] if optimizer == "adam" else [3 * 0.01 * 2 / 8, -3 * 0.01 * 0.5 / 8]
    torch.testing.assert_close(torch.stack(moves[:2]), torch.tensor(expected), atol=1e-5, rtol=1e-3)
