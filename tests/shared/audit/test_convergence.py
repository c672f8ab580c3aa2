from __future__ import annotations

import numpy as np
import pytest
import torch
from speakers import codes

from moretta.shared.audit.attackers import get_attacker, networks
from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.audit.crossval import check_learned

PEOPLE = np.repeat(np.arange(10), 60)
WORDS = np.random.default_rng(1).integers(0, 6, 600)
ONE_WORD = np.eye(6)[WORDS]
"""Of each clip one of six words, which have nothing to do with people."""


def test_who_learned_a_quarter_of_the_way_has_learned() -> None:
    unlike = np.arange(600.0)[:, None]
    right = np.where(np.arange(600) % 2 == 0, PEOPLE, (PEOPLE + 1) % 10)
    check_learned(unlike, PEOPLE, right)
    with pytest.raises(NotConvergedError, match=r"training accuracy 0.10 where chance is 0.10; expected at least 0.3"):
        check_learned(unlike, PEOPLE, np.zeros(600, np.int64))


def test_no_attacker_has_to_distinguish_equal_clips() -> None:
    """Best is to say of each word who used it most, which is hardly better than guessing."""
    most = np.array([np.bincount(PEOPLE[word == WORDS]).argmax() for word in range(6)])
    said = most[WORDS]
    assert (said == PEOPLE).mean() < 0.2
    check_learned(ONE_WORD, PEOPLE, said)


def test_an_attacker_that_has_not_even_learned_that_is_invalid() -> None:
    with pytest.raises(NotConvergedError, match="did not converge"):
        check_learned(ONE_WORD, PEOPLE, np.zeros(600, np.int64))
    check_learned(np.zeros((600, 6)), PEOPLE, np.zeros(600, np.int64))


def test_a_network_that_has_not_learned_is_trained_longer_and_wider_and_without_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[float, int, float]] = []
    train = networks.train_with_margin

    def watched(network: torch.nn.Module, *others: object, schedule: networks.Schedule, seed: int) -> object:
        dropout = max(layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout))
        tried.append((schedule.epochs, sum(weight.numel() for weight in network.parameters()), dropout))
        return train(network, *others, schedule=networks.Schedule(0.0, epochs=0, min_steps=1), seed=seed)

    def never(*_: object) -> None:
        raise NotConvergedError("training accuracy 0.12", expected="0.25")

    monkeypatch.setattr(networks, "train_with_margin", watched)
    monkeypatch.setattr(networks, "check_learned", never)
    with pytest.raises(NotConvergedError):
        get_attacker("voice-ecapa")().fit(codes(), seed=1)
    assert len(tried) == len(networks.EFFORTS) > 2
    first, last = tried[0], tried[-1]
    assert last[0] > 2 * first[0] and last[1] > 2 * first[1]
    assert first[2] > 0 and last[2] == 0
