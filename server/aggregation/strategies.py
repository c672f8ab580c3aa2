"""Flower's strategies by name. Only those whose sites need nothing that Moretta's do not have."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from moretta.shared.core.errors import StudyError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg

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


def make_strategy(name: str, options: dict[str, float | int | bool]) -> FedAvg:
    """Build one of Flower's strategies over all sites, with the study's options.

    Its own minimum numbers of nodes are set to 1, since Flower waits for ever where they are not met: floors are
    kept by `GuardedStrategy`, which fails instead.

    Raises:
        StudyError: unknown name or option, or one that the study sets elsewhere.
    """
    import flwr.serverapp.strategy as flower

    if name not in STRATEGIES:
        raise StudyError(f"the strategy {name!r}", expected=f"one of: {', '.join(STRATEGIES)}", fix="correct [train]")
    elsewhere = sorted(_ELSEWHERE & options.keys())
    if elsewhere:
        raise StudyError(
            f"strategy_options with {', '.join(elsewhere)}",
            expected="every site with training clips in every round",
            fix="remove them; min_sites in [train] sets how many must answer",
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
