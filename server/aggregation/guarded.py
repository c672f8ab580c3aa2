"""A Flower strategy between two guards: what goes out is addressed, what comes in is checked, sorted and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.aggregation.checks import update_problem
from moretta.server.exchange import Exchange
from moretta.shared import wire
from moretta.shared.errors import MorettaError, RunError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What one round of training brought."""

    round: int
    used: dict[str, MetricRecord]
    """Metrics of the sites whose updates were aggregated."""
    refused: dict[str, str]
    """Why the other sites' were not."""
    seconds: float


@dataclass
class GuardedStrategy(Strategy):
    """Wraps one of Flower's strategies.

    Answers are taken in order of site names, because a floating-point sum depends on its order; a site that answers
    twice counts once.

    Raises:
        RunError: from `aggregate_train`, when fewer than `min_sites` usable updates came.
    """

    inner: FedAvg
    exchange: Exchange
    sites: list[str]
    call: str
    min_sites: int
    on_round: Callable[[RoundOutcome], None]
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
        refused: dict[str, str] = {}
        for answer in self.exchange.sorted_answers(kept, set(self.sites)):
            if answer.content is None:
                refused[answer.site] = answer.failure
                continue
            try:
                problem = update_problem(self._sent, wire.arrays_of(answer.content))
            except (MorettaError, ValueError) as error:
                problem = str(error)
            if problem is None:
                used[answer.site] = by_node[nodes[answer.site]]
            else:
                refused[answer.site] = problem
        if len(used) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(refused.items())[:3])
            raise RunError(
                f"{len(used)} usable updates in round {server_round} of {self.call} ({why})",
                expected=f"at least {self.min_sites}",
                fix="look into the logs of the sites named",
            )
        messages = [_without_config(used[site]) for site in sorted(used)]
        aggregated = self.inner.aggregate_train(server_round, messages)
        metrics = {site: _metrics(message) for site, message in used.items()}
        self.on_round(RoundOutcome(server_round, metrics, refused, time.monotonic() - self._since))
        return aggregated

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


def _metrics(message: Message) -> MetricRecord:
    record = message.content.get(wire.METRICS)
    return record if isinstance(record, MetricRecord) else MetricRecord()


def _without_config(message: Message) -> Message:
    """Flower's strategies expect arrays and metrics and nothing else in a reply."""
    message.content.pop(wire.CONFIG, None)
    return message
