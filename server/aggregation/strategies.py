"""Flower's strategies by name: only those whose sites need nothing that Moretta's do not have."""

from __future__ import annotations

import logging
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
from flwr.serverapp.strategy import FedAvg

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError
from moretta.shared.messages import wire

STRATEGIES = (
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedAdagrad",
    "FedAdam",
    "FedYogi",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
)
_ELSEWHERE = {
    "fraction_train",
    "fraction_evaluate",
    "min_train_nodes",
    "min_evaluate_nodes",
    "min_available_nodes",
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
}
"""Flower's options that would be without effect here, or let it wait without end."""


def make_strategy(name: str, options: dict[str, float | int | bool]) -> FedAvg:
    """Build one of Flower's strategies over all sites; raises StudyError for a name or option that cannot be.

    Its own minimum numbers of nodes are set to 1, since Flower waits for ever where they are not met: `CheckedStrategy`
    keeps floors, and fails instead.
    """
    if name not in STRATEGIES:
        raise StudyError(f"the strategy {name!r}", expected=f"one of: {', '.join(STRATEGIES)}", fix="correct [train]")
    elsewhere = sorted(_ELSEWHERE & options.keys())
    if elsewhere:
        raise StudyError(
            f"strategy_options with {', '.join(elsewhere)}",
            expected="options of the strategy itself",
            fix="remove them; [train] has fraction_train, the share of sites in a round, and min_sites",
        )
    everyone = {"fraction_train": 1.0, "fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}
    logger = logging.getLogger("flwr")
    before, logger.disabled = logger.disabled, True  # its advice on evaluation is for those who use it alone
    try:
        strategy: FedAvg = getattr(flower, name)(**{**everyone, "min_evaluate_nodes": 0, **options})
    except (TypeError, ValueError) as error:
        raise StudyError(
            f"strategy_options {options} for {name}: {error}", expected=f"options that Flower's {name} takes"
        ) from error
    finally:
        logger.disabled = before
    return strategy


def strategy_state(strategy: FedAvg) -> dict[str, Array]:
    """The state of a strategy between rounds, by `attribute/name`: a resumed run needs it.

    FedAvgM keeps its momentum and the weights it left off at; FedAdagrad, FedAdam and FedYogi keep two moments. The
    other strategies keep nothing.
    """
    state: dict[str, dict[str, Any]] = {name: getattr(strategy, name, None) or {} for name in ("m_t", "v_t")}
    if hasattr(strategy, "momentum_vector"):
        momentum = enumerate(getattr(strategy, "momentum_vector", None) or [])
        state["momentum_vector"] = {f"{index:06d}": array for index, array in momentum}
        weights = getattr(strategy, "current_arrays", None) or {}
        state["current_arrays"] = {name: packed.numpy() for name, packed in weights.items()}
    return {f"{attribute}/{name}": np.asarray(array) for attribute, of in state.items() for name, array in of.items()}


def restore_strategy(strategy: FedAvg, arrays: dict[str, Array]) -> None:
    """Give a new strategy the state of one of its kind."""
    parts: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        attribute, name = key.split("/", 1)
        parts.setdefault(attribute, {})[name] = array
    for attribute, named in parts.items():
        value: Any = named
        if attribute == "momentum_vector":
            value = [named[index] for index in sorted(named)]
        elif attribute == "current_arrays":
            value = wire.arrays_to_record(named)
        setattr(strategy, attribute, value)
