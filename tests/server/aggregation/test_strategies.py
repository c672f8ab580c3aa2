"""A strategy that is reminded goes on exactly as if it had never stopped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from safetensors.numpy import load, save

from moretta.server.aggregation.checked_strategy import CheckedStrategy
from moretta.server.aggregation.strategies import STRATEGIES, make_strategy, restore_strategy, strategy_state
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study

START = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
OPTIONS: dict[str, dict[str, Any]] = {
    "FedAvgM": {"server_momentum": 0.7, "server_learning_rate": 0.9},
    "FedAdam": {"eta": 0.05},
    "FedTrimmedAvg": {"beta": 0.2},
    "FedProx": {"proximal_mu": 0.1},
}
ROUNDS = {"Bulyan": 2}
"""Of those that are slow; six of the others."""


def _answer(node: int, message: Any) -> RecordDict:
    """Depends on the weights that came, as real training does."""
    number = int(wire.number_of(message.content, "server-round"))
    generator = np.random.default_rng(100 * node + number)
    moved = {
        name: (0.9 * array + generator.standard_normal(array.shape)).astype(np.float32)
        for name, array in wire.arrays_of(message.content).items()
    }
    return RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record(moved),
            wire.METRICS: MetricRecord({"num-examples": 3 * node}),
            wire.CONFIG: wire.json_config(site="x"),
        }
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_is_stopped_and_reminded_gives_the_same_bits(
    fake_site_grid: Any, hello: Any, hellos: Any, name: str
) -> None:
    site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=4), 4)
    site_grid.grid.response = _answer

    def strategy() -> CheckedStrategy:
        return CheckedStrategy(
            strategy=make_strategy(name, OPTIONS.get(name, {})),
            grid=site_grid,
            sites=site_grid.sites,
            call=wire.TRAIN["voice"],
            study=Study(),
            min_sites=1,
            on_round=lambda _: None,
        )

    rounds = ROUNDS.get(name, 6)
    through = START
    undisturbed = strategy()
    for number in range(1, rounds + 1):
        through = undisturbed.round(number, through)
    stopped, kept = START, save({})
    for number in range(1, rounds + 1):  # a new process for every round
        anew = strategy()
        restore_strategy(anew.strategy, load(kept))
        stopped = anew.round(number, stopped)
        kept = save(strategy_state(anew.strategy))
    for part in START:
        assert through[part].tobytes() == stopped[part].tobytes(), part


def test_a_strategy_that_remembers_nothing_has_nothing_to_keep() -> None:
    assert strategy_state(make_strategy("FedAvg", {})) == {}
