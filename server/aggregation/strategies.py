"""Flower's strategies by name: only those whose sites need nothing that Moretta's do not have."""

from __future__ import annotations

import logging

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
"""Options of Flower's that would be without effect here, or let it wait for ever."""
_MOMENTS = ("m_t", "v_t")
_MOMENTUM = "momentum_vector"
_WEIGHTS = "current_arrays"


def make_strategy(name: str, options: dict[str, float | int | bool]) -> FedAvg:
    """Build one of Flower's strategies over all sites, with the study's options.

    Its own minimum numbers of nodes are set to 1, since Flower waits for ever where they are not met: floors are
    kept by `CheckedStrategy`, which fails instead.

    Raises:
        StudyError: unknown name or option, or one that the study sets elsewhere.
    """
    if name not in STRATEGIES:
        raise StudyError(f"the strategy {name!r}", expected=f"one of: {', '.join(STRATEGIES)}", fix="correct [train]")
    elsewhere = sorted(_ELSEWHERE & options.keys())
    if elsewhere:
        raise StudyError(
            f"strategy_options with {', '.join(elsewhere)}",
            expected="every site with training clips in every round",
            fix="remove them; min_sites in [train] sets how many must respond",
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
    arrays: dict[str, Array] = {}
    for attribute in _MOMENTS:
        for name, array in (getattr(strategy, attribute, None) or {}).items():
            arrays[f"{attribute}/{name}"] = np.asarray(array)
    for index, array in enumerate(getattr(strategy, _MOMENTUM, None) or []):
        arrays[f"{_MOMENTUM}/{index:06d}"] = np.asarray(array)
    if hasattr(strategy, _MOMENTUM):
        for name, packed in (getattr(strategy, _WEIGHTS, None) or {}).items():
            arrays[f"{_WEIGHTS}/{name}"] = packed.numpy()
    return arrays


def restore_strategy(strategy: FedAvg, arrays: dict[str, Array]) -> None:
    """Give a new strategy the state of one of its kind."""
    parts: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        attribute, name = key.split("/", 1)
        parts.setdefault(attribute, {})[name] = array
    for attribute, named in parts.items():
        if attribute == _MOMENTUM:
            setattr(strategy, attribute, [named[index] for index in sorted(named)])
        elif attribute == _WEIGHTS:
            setattr(strategy, attribute, wire.arrays_to_record(named))
        else:
            setattr(strategy, attribute, named)
