"""Toys with a planted bit: what reversal takes away, and what every known way to fake it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planted import planted
from torch import Tensor, nn

from moretta.client.training.example_gradients import ExampleGradients
from moretta.shared.core.workers import seeded
from moretta.shared.models.adversaries import (
    ABLE,
    Adversary,
    AdversaryFigures,
    Labelled,
    balance,
    cross_entropies,
    dense,
    fresh_readers,
    recall,
    reverse,
    strength_at,
    train_fresh,
    variation,
)

WIDTH, CODE, STEPS, RATE = 10, 8, 500, 1e-3


class SoftmaxReversed(nn.Module):
    """The known fake: the reversal stands behind the adversary's softmax, so both maximize the same loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = dense(CODE, 2)

    def forward(self, code: Tensor, strength: float) -> Tensor:
        found = torch.softmax(self.network(code), dim=1)
        return torch.log((reverse(found, strength) if strength else found) + 1e-9)


class Trained(NamedTuple):
    figures: AdversaryFigures
    emotion: float
    """Of a linear model on codes of new rows."""


def trained(most: float, adversary: Any = None, *, rate: float = 1e-2, freeze: bool = False) -> Trained:
    """A linear code of ten values, trained for emotion and against sex; figures of new rows."""
    (values, sex, emotion), (new, new_sex, new_emotion) = planted(600, 1), planted(600, 2)
    rows, labels, emotions = torch.tensor(values), torch.tensor(sex), torch.tensor(emotion)
    with seeded(1):
        encoder, head, adversary = nn.Linear(WIDTH, CODE), nn.Linear(CODE, 2), adversary or Adversary(dense(CODE, 2))
        groups = [{"params": [*encoder.parameters(), *head.parameters()]}]
        groups += [] if freeze else [{"params": [*adversary.parameters()], "lr": rate}]
        optimizer = torch.optim.Adam(groups, lr=RATE)
        for step in range(STEPS):
            code, strength = encoder(rows), strength_at(step / STEPS, most=most, warm_up=0.1)
            optimizer.zero_grad()
            both = cross_entropies(head(code), emotions) + cross_entropies(adversary(code, strength), labels)
            both.mean().backward()
            optimizer.step()
    with torch.no_grad():
        known, others = encoder(rows), encoder(torch.tensor(new))
        in_loop = recall(new_sex, adversary(others, 0.0).argmax(dim=1).numpy())
        loss = float(cross_entropies(adversary(known, 0.0), labels).mean())
    codes, new_codes = known.numpy(), others.numpy()
    linear, forest = fresh_readers(Labelled(codes, sex), Labelled(new_codes, new_sex), seed=1)
    figures = AdversaryFigures(
        classes=2,
        in_loop=in_loop,
        able=in_loop,
        loss=loss,
        of_originals=0.5,
        fresh_linear=linear,
        fresh_forest=forest,
        variation=variation(new_codes, new),
    )
    return Trained(figures, fresh_readers(Labelled(codes, emotion), Labelled(new_codes, new_emotion), seed=1)[0])


@pytest.fixture(scope="module")
def unreversed() -> Trained:
    return trained(0.0)


def test_without_reversal_a_planted_bit_is_read_and_the_adversary_is_able(unreversed: Trained) -> None:
    assert unreversed.figures.fresh_linear >= 0.95
    assert unreversed.figures.in_loop >= ABLE
    assert unreversed.figures.faults() == ()


def test_reversal_hides_a_planted_bit_from_a_reader_that_is_trained_afresh_and_keeps_emotion(
    unreversed: Trained,
) -> None:
    hidden = trained(1.0)
    assert hidden.figures.fresh_linear <= 0.60
    assert hidden.emotion >= unreversed.emotion - 0.05
    assert replace(hidden.figures, able=unreversed.figures.able).faults() == ()


def test_a_reversal_behind_the_softmax_is_found_by_its_loss(unreversed: Trained) -> None:
    faked = replace(trained(1.0, SoftmaxReversed()).figures, able=unreversed.figures.able)
    assert faked.in_loop <= 0.6  # as the paper that did so reports it
    assert any("its own gradient is reversed" in fault for fault in faked.faults())
    with pytest.raises(ValueError, match="gives logits"):
        Adversary(nn.Sequential(dense(CODE, 2), nn.Softmax(dim=1)))


def test_an_adversary_that_learns_nothing_is_found_where_nothing_is_reversed() -> None:
    weak = trained(0.0, freeze=True).figures
    assert weak.fresh_linear >= 0.95
    assert any("without reversal" in fault for fault in weak.faults())


def test_an_adversary_that_reads_upside_down_is_weak_and_nothing_is_hidden(unreversed: Trained) -> None:
    assert any("weak" in fault for fault in replace(unreversed.figures, in_loop=0.44).faults())
    assert not any("weak" in fault for fault in replace(unreversed.figures, in_loop=0.46).faults())


@pytest.mark.parametrize("constant", [0.0, 1.0, -7.5])
def test_a_representation_that_is_the_same_for_everybody_has_collapsed(unreversed: Trained, constant: float) -> None:
    values, *_ = planted(50, 3)
    collapsed = variation(np.full_like(values, constant) + 1e-3 * values, values)
    [fault] = replace(unreversed.figures, in_loop=0.5, variation=collapsed).faults()
    assert "collapsed" in fault


def test_a_training_that_diverged_is_a_fault_by_itself(unreversed: Trained) -> None:
    [fault] = replace(unreversed.figures, loss=float("nan")).faults()
    assert "not finite" in fault


def test_reversal_changes_no_value_and_only_the_encoders_gradient() -> None:
    code = torch.randn(4, CODE, generator=torch.Generator().manual_seed(1), requires_grad=True)
    adversary, labels = Adversary(dense(CODE, 2)), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(adversary(code, 3.0), adversary.network(code))
    found = {}
    for strength in (0.0, 3.0):
        losses = cross_entropies(adversary(code, strength), labels)
        assert losses.shape == (4,)
        found[strength] = torch.autograd.grad(losses.sum(), [code, *adversary.parameters()])
    plain = torch.autograd.grad(cross_entropies(adversary.network(code), labels).sum(), code)[0]
    torch.testing.assert_close(found[3.0][0], -3.0 * plain)
    assert float(found[0.0][0].abs().max()) == 0.0
    for one, other in zip(found[0.0][1:], found[3.0][1:], strict=True):
        torch.testing.assert_close(one, other)


class Reversed(nn.Module):
    """An encoder behind which an adversary stands."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.adversary = nn.Linear(WIDTH, CODE), Adversary(dense(CODE, 2))

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.adversary(self.encoder(values), 2.0)
        return found


def test_the_gradient_of_each_row_is_that_of_the_row_alone_by_hooks_and_by_torch_func() -> None:
    values, sex, _ = planted(5, 4)
    rows, labels = torch.tensor(values), torch.tensor(sex)
    with seeded(1):
        network = Reversed()

    def alone(parameters: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, parameters, (row[None],))
        return cross_entropies(logits, label[None]).sum()

    parameters = {name: tensor.detach() for name, tensor in network.named_parameters()}
    each = torch.func.vmap(torch.func.grad(alone), in_dims=(None, 0, 0))(parameters, rows, labels)
    with ExampleGradients(network) as gradients_of:
        hooked = gradients_of(rows, labels)
    for number in range(5):
        network.zero_grad()
        cross_entropies(network(rows[number : number + 1]), labels[number : number + 1]).sum().backward()
        for (name, parameter), hook in zip(network.named_parameters(), hooked, strict=True):
            torch.testing.assert_close(each[name][number], parameter.grad)
            torch.testing.assert_close(hook[number], parameter.grad)


def test_the_strength_rises_from_nothing_after_the_warm_up_as_published() -> None:
    assert strength_at(0.0, most=2.0) == 0.0
    assert strength_at(0.29, most=2.0, warm_up=0.3) == 0.0
    assert strength_at(0.5, most=1.0) == pytest.approx(2 / (1 + np.exp(-5.0)) - 1)
    assert strength_at(1.0, most=2.0, warm_up=0.3) == pytest.approx(2.0, abs=1e-3)
    rising = [strength_at(p, most=1.0, warm_up=0.2) for p in np.linspace(0, 1, 20)]
    assert rising == sorted(rising)


def test_a_fresh_verifier_reads_what_is_there_says_chance_where_nothing_is_and_can_replace_the_adversary() -> None:
    (values, sex, _), (new, new_sex, _) = planted(400, 5), planted(400, 6)
    known, others = Labelled(values, sex), Labelled(new, new_sex)
    made = train_fresh(lambda: dense(WIDTH, 2), known, others, seed=1, epochs=30)
    assert made.recall >= 0.95 and made.loss < 0.2
    nothing = train_fresh(lambda: dense(WIDTH, 2), known, others._replace(label=np.roll(new_sex, 7)), seed=1, epochs=10)
    assert nothing.recall == pytest.approx(0.5, abs=0.1) and nothing.loss > 0.65
    adversary = Adversary(dense(WIDTH, 2))
    adversary.replace(made)
    torch.testing.assert_close(adversary(torch.tensor(new), 1.0), made.network(torch.tensor(new)))
    again = train_fresh(lambda: dense(WIDTH, 2), known, others, seed=1, epochs=30)
    assert again[1:] == made[1:]


def test_classes_count_alike_however_many_rows_they_have() -> None:
    label = np.array([0, 0, 0, 1])
    assert recall(label, np.zeros(4, np.int64)) == 0.5
    weights = balance(label, 2).numpy()
    assert weights[0] * 3 == pytest.approx(weights[1])
    assert weights[label].mean() == pytest.approx(1.0)


def test_figures_are_sent_and_stated_as_they_are(unreversed: Trained) -> None:
    array = unreversed.figures.to_array()
    again = AdversaryFigures.from_array(array, classes=2)
    np.testing.assert_array_equal(again.to_array(), array)
    stated = again.stated()
    assert stated["faults"] == [] and stated["fresh_linear"] == round(again.fresh_linear, 3)
