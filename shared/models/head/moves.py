"""Faces that move at random, channel by channel, not by the recipes of emotions: readers of faces learn from them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.models.head.asset import load_asset
from moretta.shared.models.head.channels import ACTIONS, channel_targets

_NUISANCES = 3
"""Shape targets besides the channels' that move a little in every picture."""


def random_actions(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Values of the actions, [actions]: some at rest, none that a face cannot do together with the others."""
    column = {name: number for number, name in enumerate(ACTIONS)}
    values = np.zeros(len(ACTIONS))
    if rng.random() >= 0.1:
        share = rng.choice([0.15, 0.3, 0.5])
        moved = rng.random(len(values)) < share
        values[moved] = rng.uniform(0, 1.1, moved.sum())
        if rng.random() < 0.5:
            values[column["jaw open"]] += rng.uniform(0, 0.45)
    closed, raised = column["lids closed"], column["lids raised"]
    _one_of(values, closed, raised, 1.0, rng)
    if rng.random() < 0.1:
        values[closed], values[raised] = rng.uniform(0.6, 1), 0
    _one_of(values, column["lip corners up"], column["lip corners down"], 0.7, rng)
    _one_of(values, column["lips pushed out"], column["lip corners apart"], 0.7, rng)
    return values


def loosely(actions: npt.NDArray[np.float64], rng: np.random.Generator) -> dict[str, float]:
    """Weights of shape targets: no two people, and no two sides of a face, do the same in quite the same way."""
    weights: dict[str, float] = {}
    for value, targets in zip(actions, channel_targets(), strict=True):
        if value:
            shared = 1 + 0.12 * rng.standard_normal()
            for target, share in targets.items():
                own = max(shared + 0.15 * rng.standard_normal(), 0)
                weights[target] = weights.get(target, 0.0) + float(value) * share * own
    for target in rng.choice(_nuisances(), _NUISANCES):
        weights[str(target)] = weights.get(str(target), 0.0) + abs(0.08 * rng.standard_normal())
    return weights


def _one_of(values: npt.NDArray[Any], first: int, second: int, chance: float, rng: np.random.Generator) -> None:
    """Mostly only one of two movements that work against each other."""
    if values[first] > 0 and values[second] > 0 and (chance == 1 or rng.random() < chance):
        values[rng.choice([first, second])] = 0


@cache
def _nuisances() -> tuple[str, ...]:
    left_out = ("tongue", "cheekPuff", "eyeLook")
    return tuple(t for t in load_asset().targets if t.startswith("face/") and not any(word in t for word in left_out))
