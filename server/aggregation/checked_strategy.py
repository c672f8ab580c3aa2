"""A wrapper around Flower's strategies: what goes out is addressed, what comes in is checked, sorted and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.aggregation.outlying import FEWEST, outlying
from moretta.server.grid.site_grid import SiteGrid, SiteResponse, noting_failure_of
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Update
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

WEIGHT = "num-examples"
MAX_NORM = 1e6
"""L2 norm of an update above which it is taken for damage or an attack."""
_HEADER_BYTES = 4096
"""Most bytes that the packing of one array adds to its values."""
Weights = dict[str, Array]


class WrappedStrategy(Strategy):
    """Base of the wrappers, as Flower's own for differential privacy are: changes nothing by itself."""

    strategy: Strategy
    """The one within."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As of the strategy within."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As of the strategy within."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As of the strategy within."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As of the strategy within."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """As of the strategy within."""
        self.strategy.summary()


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """Result of one round of training."""

    round: int
    used: dict[str, dict[str, float]]
    """Metrics of the sites whose updates were aggregated: known names, finite and not negative."""
    refused: dict[str, str]
    """Why others' updates were not."""
    lost: dict[str, str]
    """Sites that sent none, and why."""
    seconds: float
    outlying: Mapping[str, str] = field(default_factory=dict)
    """Sites whose updates lie far outside those of the others, and how. They are aggregated all the same."""


@dataclass
class CheckedStrategy(WrappedStrategy):
    """Hands the strategy within only sound updates, in order of site names, since a floating-point sum depends on it.

    Flower's own loop, `Strategy.start`, waits for ever where no site is there, and cannot go on from a later round:
    `round` makes one round, and fails where too few updates come.
    """

    strategy: Strategy
    grid: SiteGrid
    sites: list[str]
    call: str
    study: Study
    min_sites: int
    on_round: Callable[[RoundOutcome], None]
    on_update: Callable[[int, str, Callable[[], Weights]], None] | None = None
    """Called with every sound update as it is checked: round, site, and how to get what it changes."""
    deadline_seconds: float | None = None
    max_norm: float = MAX_NORM
    most: Mapping[str, int] | None = None
    """Training clips that an update may state at most, by site; None where nobody knows."""
    other_models: Mapping[ModelKind, Weights] = field(default_factory=dict)
    """Finished models that the sites need for this one."""
    find_outlying: bool = True
    """False where no single update may be known from the aggregate."""
    _sent: Weights = field(default_factory=dict)
    _metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    _since: float = 0.0

    def round(self, number: int, weights: Weights) -> Weights:
        """One round: send the global weights, check what comes back, aggregate what is sound.

        Raises:
            RunError: fewer than `min_sites` usable updates came, or too few for the strategy.
        """
        arrays, config = wire.arrays_to_record(weights), wire.study_config(self.study)
        messages = self.configure_train(number, arrays, config, self.grid)
        replies = self.grid.send_and_receive(messages, timeout=self.deadline_seconds)
        new, _ = self.aggregate_train(number, replies)
        return {name: packed.numpy() for name, packed in (new or {}).items()}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """To every site what the strategy within would send, with its options."""
        self._since = time.monotonic()
        self._sent, self._metrics = {name: packed.numpy() for name, packed in arrays.items()}, {}
        content = next(iter(self.strategy.configure_train(server_round, arrays, config, grid))).content
        content.update(wire.models_to_records(self.other_models))
        return [Message(content, node, self.call) for node, site in self.grid.nodes.items() if site in self.sites]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord | None]:
        """Aggregate the sound updates with the strategy within.

        Raises:
            RunError: see `round`.
        """
        used: dict[str, RecordDict] = {}
        refused: dict[str, str] = {}
        lost: dict[str, str] = {}
        for response in map(self.grid.response, replies):
            if response.lost:
                lost[response.site] = response.failure
                continue
            with noting_failure_of(response.site, refused):
                used[response.site] = self._sound(server_round, response)
        self._require(server_round, used, refused, lost)
        outside = self._outlying(used)  # before the strategy, which may take the updates apart
        arrays, metrics = self.strategy.aggregate_train(server_round, self._for_strategy(server_round, used))
        new = self._checked(server_round, arrays, len(used))
        found = {site: self._metrics[site] for site in used}
        self.on_round(RoundOutcome(server_round, found, refused, lost, time.monotonic() - self._since, outside))
        return wire.arrays_to_record(new), metrics

    def _sound(self, number: int, response: SiteResponse) -> RecordDict:
        """The content of an update that can be aggregated.

        Raises:
            ReleaseError: why it cannot.
        """
        metrics = self._weighed(response.site, response.of(Update))
        content = response.content or RecordDict()
        update = checked_update(self._sent, content, max_norm=self.max_norm)
        self._metrics[response.site] = metrics
        if self.on_update is not None:
            self.on_update(number, response.site, partial(self._change, update))
        return content

    def _weighed(self, site: str, update: Update) -> dict[str, float]:
        """Check the metrics of an update.

        Raises:
            ReleaseError: it weighs nothing, or more than the site has released.
        """
        found = update.metrics.figures()
        weight, most = found.get(WEIGHT, 0), None if self.most is None else self.most.get(site, 0)
        if not weight:
            raise ReleaseError(f"an update without {WEIGHT}", expected="at least 1")
        if most is not None and weight > most:
            raise ReleaseError(f"an update of {weight:.0f} training clips", expected=f"at most {most}, as released")
        return found

    def _require(self, number: int, used: dict[str, RecordDict], refused: dict[str, str], lost: dict[str, str]) -> None:
        if len(used) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted((refused | lost).items())[:3])
            raise RunError(
                f"{len(used)} usable updates in round {number} of {self.call} ({why})",
                expected=f"at least {self.min_sites}",
                fix="look into the logs of the sites named",
            )

    def _outlying(self, used: dict[str, RecordDict]) -> dict[str, str]:
        if not self.find_outlying or len(used) < FEWEST:
            return {}
        return outlying((site, self._change(wire.arrays_of(used[site]))) for site in sorted(used))

    def _for_strategy(self, number: int, used: dict[str, RecordDict]) -> list[Message]:
        """The replies that the strategy within aggregates."""
        del number
        return [bare_reply(used[site][wire.ARRAYS], self._metrics[site][WEIGHT]) for site in sorted(used)]

    def _checked(self, number: int, arrays: ArrayRecord | None, updates: int) -> Weights:
        """New weights in the types that sites expect: some strategies compute in float64."""
        inner = self.strategy
        while isinstance(inner, WrappedStrategy):
            inner = inner.strategy
        name = type(inner).__name__
        if arrays is None:
            raise RunError(
                f"{name} cannot aggregate {updates} updates",
                expected="as many as the strategy needs",
                fix="take more sites or another strategy in [train]",
            )
        new = {n: packed.numpy().astype(self._sent[n].dtype, copy=False) for n, packed in arrays.items()}
        if not all(np.isfinite(array).all() for array in new.values()):
            raise RunError(
                f"{name} gave weights that are not finite in round {number}",
                expected="finite weights",
                fix="lower the learning rates in [train]",
            )
        return new

    def _change(self, update: Weights) -> Weights:
        return {name: np.asarray(array - self._sent[name]) for name, array in update.items()}


def bare_reply(arrays: Any, weight: float) -> Message:
    """Flower's strategies want arrays and metrics and nothing else, with the same names in every reply."""
    content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({WEIGHT: weight})})
    return Message(content, dst_node_id=1, message_type="train")


def checked_update(expected: Weights, content: RecordDict, *, max_norm: float = MAX_NORM) -> Weights:
    """The arrays of an update: names, size, shape, type, finiteness and norm are checked, sizes before unpacking.

    Args:
        expected: the global weights the update started from.
        content: a site's response.
        max_norm: L2 norm that the change may have at most.

    Raises:
        ReleaseError: the first thing that is wrong.
    """
    record = content.get(wire.ARRAYS)
    if not isinstance(record, ArrayRecord):
        raise ReleaseError("an update without arrays")
    if odd := sorted(set(record) ^ set(expected)):
        raise ReleaseError(f"tensors that are missing or too many: {', '.join(odd)[:200]}")
    for name, packed in record.items():
        limit = expected[name].nbytes + _HEADER_BYTES
        if len(packed.data) > limit:
            raise ReleaseError(f"{name} of {len(packed.data)} bytes, at most {limit} were expected")
    update = wire.arrays_of(content)
    for name, reference in expected.items():
        array = update[name]
        if array.shape != reference.shape or array.dtype != reference.dtype:
            raise ReleaseError(
                f"{name} is {array.dtype} {list(array.shape)}, not {reference.dtype} {list(reference.shape)}"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ReleaseError(f"{name} has values that are not finite")
    norm = np.sqrt(sum(float(np.square(update[n].astype(np.float64) - expected[n]).sum()) for n in expected))
    if norm > max_norm:
        raise ReleaseError(f"an update of norm {norm:.3g}, above {max_norm:.3g}")
    return update
