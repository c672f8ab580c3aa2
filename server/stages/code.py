"""Stage federated code: the sites train the directions in which voices are compared, from what public speech gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moretta.server.aggregation.checked_strategy import WEIGHT, CheckedStrategy, RoundOutcome
from moretta.server.aggregation.strategies import make_strategy
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.context import RunContext
from moretta.server.stages.results import Arrays
from moretta.shared.features.federated_encoder import CLIPPING_NORM, CODE, LEARNING_RATE, is_clear
from moretta.shared.messages import wire
from moretta.shared.privacy.site_training import training_step
from moretta.shared.release.anonymizer import site_training_of

STAGE = "federated code"


def federate_code(context: RunContext, grid: SiteGrid, public: Arrays) -> tuple[Arrays, dict[str, int]]:
    """Make all rounds, and the public arrays that follow from the last one.

    Everything after the sites' noise is made of nothing else, so it costs nothing more. Where the noise exceeds what
    the sites' clips add, the public code stays as it is. A server that died over it makes all rounds again, and the
    sites respond as before.

    Returns:
        The public arrays with the new code, and the units (clips or speakers) that each site trained on.

    Raises:
        RunError: fewer sites than the study needs have responded.
    """
    study, training = context.study, site_training_of(context.study)
    assert training is not None, "only a study that has an encoder to train has this stage"
    first, record, rounds = training.first_arrays(public), _Record(context), training.plan.rounds
    strategy = CheckedStrategy(
        strategy=make_strategy("FedAvg", {}),
        grid=grid,
        sites=grid.sites,
        call=wire.CODE,
        study=study,
        min_sites=study.min_sites("train"),
        on_round=record.add,
        deadline_seconds=study.deadline_seconds("train"),
        max_norm=study.train.max_update_norm,
    )
    weights = first
    for number in range(1, rounds + 1):
        weights = strategy.round(number, weights)
    step = training_step(training.plan)
    deviation = 0.0 if step is None else step.noise_multiplier * float(np.sqrt(record.noise_variance))
    clear = is_clear(first[CODE], weights[CODE], noise=deviation)
    if not clear:
        context.warn(
            f"the noise of {rounds} rounds exceeds what the sites' clips add to the code: it stays as public speech "
            "has made it, and the budget is spent"
        )
    return public | training.public_after(public, weights if clear else None), record.units


@dataclass
class _Record:
    """Record of the rounds."""

    context: RunContext
    noise_variance: float = 0.0
    """Of the sites' noise in each value of the code over all rounds, for a noise multiplier of 1."""
    units: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: RoundOutcome) -> None:
        """One round: every site adds noise of one clipping norm to the sum over all units."""
        context, weights = self.context, {site: metrics[WEIGHT] for site, metrics in outcome.used.items()}
        self.noise_variance += len(weights) * (LEARNING_RATE * CLIPPING_NORM / sum(weights.values())) ** 2
        for site, weight in weights.items():
            self.units[site] = max(self.units.get(site, 0), int(weight))
        for site, how in outcome.outlying.items():
            far = f"{site}'s updates of the code lie far outside those of the others"
            context.warn(f"{far}, first in round {outcome.round}: one {how}", once_per=far)
        for failures, lost in ((outcome.refused, False), (outcome.lost, True)):
            for site, why in failures.items():
                if not any(m.stage == STAGE and m.why == why for m in context.progress.missed.get(site, ())):
                    context.warn(f"{site} had no part in training the code, from round {outcome.round} on: {why}")
                context.miss(site, STAGE, why, round_number=outcome.round, lost=lost)
        training = context.study.site_training
        context.notify(stage=STAGE, state="step", done=outcome.round, total=training.rounds if training else 0)
