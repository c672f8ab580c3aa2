"""The mean of the sites' updates under differential privacy of whole sites, in front of one of Flower's strategies.

Flower 1.41 has wrappers of its own for this, `DifferentialPrivacyServerSideFixedClipping` and three others. With the
noise at 0 this one gives what the first of them gives. They are not used, for these reasons:
- Their noise is from NumPy's global generator, whose state can be computed from its output.
- It is added after the strategy's own step, so that for FedAdam, say, it has nothing to do with the sensitivity.
- The weights are numbers of clips, while the noise is for equal ones.
- Fewer responses than expected give a warning and too little noise. An update of zero ends the run.
- Their adaptive clipping lowers the norm where too many updates are clipped, and raises it where too few are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.aggregation.checked_strategy import Weights, WrappedStrategy, bare_reply
from moretta.shared.core.array_types import Float64
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.privacy.noise import NoiseSource, on_grid
from moretta.shared.privacy.site_updates import SitePlan, changed, clipped_change, mean_sensitivity


@dataclass
class SiteLevelMean(WrappedStrategy):
    """Clips and adds noise (central), or adds up what the sites have clipped and given noise (distributed).

    The strategy within gets one update that stands for all: whatever it makes of it costs nothing more.
    """

    strategy: Strategy
    plan: SitePlan
    trained: frozenset[str]
    """Names of the arrays that training changes: only they are aggregated."""
    noise: Callable[[int], NoiseSource] | None
    """Number of a round -> source of its noise; None where the sites have added theirs."""
    _sent: Weights = field(default_factory=dict)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the global weights, from which the updates start."""
        self._sent = {name: packed.numpy() for name, packed in arrays.items()}
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy within, on the private mean."""
        updates = dict(enumerate(wire.arrays_of(reply.content) for reply in replies))
        mean = self.mean(server_round, self._sent, updates)
        return self.strategy.aggregate_train(server_round, [bare_reply(wire.arrays_to_record(mean), 1.0)])

    def mean(self, number: int, sent: Weights, updates: Mapping[Any, Weights]) -> Weights:
        """The global weights with the private mean change of the updates, which are finite and of the shapes of `sent`.

        Raises RunError for too few updates: the noise would not be what it was calibrated to be.
        """
        if len(updates) < self.plan.min_sites:
            raise RunError(
                f"{len(updates)} updates in round {number}",
                expected=f"at least {self.plan.min_sites}: below that the site-level guarantee is invalid",
                fix="wait for more sites, or lower min_sites in [aggregation], which adds noise",
            )
        norm = self.plan.clipping_norm if self.noise is not None else float("inf")
        total: dict[str, Float64] = {name: np.zeros(sent[name].shape) for name in sorted(self.trained)}
        for site in sorted(updates):  # a sum of floating-point numbers depends on its order
            for name, array in clipped_change(sent, updates[site], trained=self.trained, norm=norm).items():
                total[name] += array
        share = mean_sensitivity([1.0] * len(updates), 1.0)
        return changed(sent, {name: array * share for name, array in self._with_noise(number, total).items()})

    def _with_noise(self, number: int, total: dict[str, Float64]) -> Mapping[str, Float64]:
        if self.noise is None:  # what is finer than the grid comes of single weights that were rounded to float32
            return {name: on_grid(array, self.plan.share).astype(np.float64) for name, array in total.items()}
        source, sigma = self.noise(number), self.plan.sigma
        return {
            name: on_grid(array + source.private_normal(sigma, array.shape), sigma).astype(np.float64)
            for name, array in total.items()
        }
