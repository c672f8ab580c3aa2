"""A Flower strategy between two guards: what goes out is addressed, what comes in is checked, sorted and counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.aggregation.checks import update_problem
from moretta.server.exchange import Exchange
from moretta.shared import wire
from moretta.shared.errors import MorettaError, ReleaseError, RunError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg


WEIGHT = "num-examples"
_METRICS = (WEIGHT, "loss", "epsilon", "noise-multiplier")


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What one round of training brought."""

    round: int
    used: dict[str, dict[str, float]]
    """Metrics of the sites whose updates were aggregated: known names, finite and not negative."""
    refused: dict[str, str]
    """Why the other sites' were not."""
    seconds: float


@dataclass
class GuardedStrategy(Strategy):
    """Wraps one of Flower's strategies.

    Answers are taken in order of site names, because a floating-point sum depends on its order; a site that answers
    twice counts once.

    Raises:
        RunError: from `aggregate_train`, when fewer than `min_sites` usable updates came, or too few for the strategy.
    """

    inner: FedAvg
    exchange: Exchange
    sites: list[str]
    call: str
    min_sites: int
    on_round: Callable[[RoundOutcome], None]
    on_update: Callable[[int, str, Callable[[], dict[str, wire.Array]]], None] | None = None
    """Told of every sound update as it is checked: round, site, and how to get what it changes."""
    _sent: dict[str, wire.Array] = field(default_factory=dict)
    _since: float = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, sent as this stage's call to the sites that take part."""
        self._sent = {name: array.numpy() for name, array in arrays.items()}
        self._since = time.monotonic()
        nodes = {node: site for node, site in self.exchange.nodes.items() if site in self.sites}
        template = next(iter(self.inner.configure_train(server_round, arrays, config, grid)))
        return [Message(content=template.content, message_type=self.call, dst_node_id=node) for node in sorted(nodes)]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every update, then let the inner strategy aggregate those that are sound."""
        kept = list(replies)
        by_node = {message.metadata.src_node_id: message for message in reversed(kept)}
        nodes = {site: node for node, site in self.exchange.nodes.items()}
        used: dict[str, Message] = {}
        metrics: dict[str, dict[str, float]] = {}
        refused: dict[str, str] = {}
        for answer in self.exchange.sorted_answers(kept, set(self.sites)):
            if answer.content is None:
                refused[answer.site] = answer.failure
                continue
            try:
                update = wire.arrays_of(answer.content)
                problem = update_problem(self._sent, update)
                metrics[answer.site] = _metrics(answer.content)
            except (MorettaError, ValueError) as error:
                problem = str(error)
            if problem is None:
                used[answer.site] = by_node[nodes[answer.site]]
                if self.on_update is not None:
                    self.on_update(server_round, answer.site, partial(self._change, update))
            else:
                refused[answer.site] = problem
        if len(used) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(refused.items())[:3])
            raise RunError(
                f"{len(used)} usable updates in round {server_round} of {self.call} ({why})",
                expected=f"at least {self.min_sites}",
                fix="look into the logs of the sites named",
            )
        messages = [_bare(used[site], metrics[site][WEIGHT]) for site in sorted(used)]
        arrays, _ = self.inner.aggregate_train(server_round, messages)
        name = type(self.inner).__name__
        if arrays is None:
            raise RunError(
                f"{name} cannot aggregate {len(used)} updates",
                expected="as many as the strategy needs",
                fix="take more sites or another strategy in [train]",
            )
        kept_types = self._as_sent({name: array.numpy() for name, array in arrays.items()})
        if not all(np.isfinite(array).all() for array in kept_types.values()):
            raise RunError(
                f"{name} gave weights that are not finite in round {server_round}",
                expected="finite weights",
                fix="lower the learning rates in [train]",
            )
        chosen = {site: metrics[site] for site in used}
        self.on_round(RoundOutcome(server_round, chosen, refused, time.monotonic() - self._since))
        return wire.arrays_to_record(kept_types), MetricRecord()

    def _change(self, update: dict[str, wire.Array]) -> dict[str, wire.Array]:
        return {name: np.asarray(array - self._sent[name]) for name, array in update.items()}

    def _as_sent(self, arrays: dict[str, wire.Array]) -> dict[str, wire.Array]:
        """Some strategies compute in float64: the next round's weights have the types that sites expect."""
        return {name: array.astype(self._sent[name].dtype, copy=False) for name, array in arrays.items()}

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: evaluation is a stage of its own."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing: evaluation is a stage of its own."""
        del server_round, replies
        return None

    def summary(self) -> None:
        """The inner strategy's."""
        self.inner.summary()


def _metrics(content: RecordDict) -> dict[str, float]:
    record = content.get(wire.METRICS)
    found = {name: record[name] for name in _METRICS if name in record} if isinstance(record, MetricRecord) else {}
    for name, value in found.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ReleaseError(f"the metric {name} = {str(value)[:40]}", expected="a finite number, 0 or more")
    if not found.get(WEIGHT):
        raise ReleaseError(f"an update without {WEIGHT}", expected="at least 1")
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _bare(message: Message, weight: float) -> Message:
    """Flower's strategies want arrays and metrics and nothing else, with the same names in every reply."""
    arrays = message.content[wire.ARRAYS]
    message.content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({WEIGHT: weight})})
    return message
