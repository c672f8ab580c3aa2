"""A wrapper around Flower's strategies: what goes out is addressed, what comes in is checked, sorted and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.grid.site_grid import SiteGrid, SiteResponse, noting_failure_of
from moretta.shared.core.array_types import Array, Float64
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Update
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

WEIGHT = "num-examples"
MAX_NORM = 1e6
"""L2 norm of an update above which it is taken for damage or an attack."""
_HEADER_BYTES = 4096
"""Most bytes that the packing of one array adds to its values."""
MOST_WEIGHT = 4
"""Largest weight of an update, in multiples of the median."""
FEWEST = 3
"""Fewest sites among which one can be outlying."""
_VALUES = 16_384
"""Most values of an update by which its direction is compared."""
_FAR = 6.0
"""Robust standard deviations, such as 1.4826 times the median distance from the median."""
_LEAST_LENGTH, _LEAST_COSINE = 0.3, 0.05
"""Added to the deviations, so that among equal updates a small difference does not count. Lengths are logarithms."""
Weights = dict[str, Array]


class WrappedStrategy(Strategy):
    """Base of the wrappers, as Flower's own for differential privacy are: they change how training goes."""

    strategy: Strategy

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Passed on to the wrapped strategy."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Passed on to the wrapped strategy."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Passed on to the wrapped strategy."""
        self.strategy.summary()


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """Result of one round of training."""

    round: int
    used: dict[str, dict[str, float]]
    """Metrics of the sites whose updates were aggregated: known names, finite and not negative."""
    refused: dict[str, str]
    """Sites whose updates were refused, with the reason."""
    lost: dict[str, str]
    """Sites that sent no update, with the reason."""
    seconds: float
    outlying: Mapping[str, str] = field(default_factory=dict)
    """Sites whose updates lie far outside those of the others, with a text of how. They are aggregated all the same."""


@dataclass
class CheckedStrategy(WrappedStrategy):
    """Gives the strategy within only sound updates, in order of site names, since a floating-point sum depends on it.

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
    check: Callable[[int, Weights], None] | None = None
    """Called before with round and arrays: raises ReleaseError where sites would refuse arrays like these."""
    deadline_seconds: float | None = None
    max_norm: float = MAX_NORM
    chosen: Callable[[int], Collection[str]] | None = None
    """Number of a round -> the sites that it is sent to; None where every round goes to all of them."""
    most: Mapping[str, int] | None = None
    """Training clips that an update may state at most, by site; None where nobody knows."""
    weights: Callable[[Mapping[str, float]], dict[str, float]] = dict
    """Numbers of training examples that sites state -> weights of their updates, both by site."""
    other_models: Mapping[ModelKind, Weights] = field(default_factory=dict)
    """Finished models that the sites need for this one."""
    find_outlying: bool = True
    """False where no single update may be known from the aggregate."""
    _sent: Weights = field(default_factory=dict)
    _metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    _since: float = 0.0

    def round(self, number: int, weights: Weights) -> Weights:
        """Send the global weights, check what comes back, aggregate what is sound.

        Raises RunError where fewer than `min_sites` usable updates came, or too few for the strategy.
        """
        arrays, config = wire.arrays_to_record(weights), wire.study_config(self.study)
        messages = self.configure_train(number, arrays, config, self.grid)
        replies = self.grid.send_and_receive(messages, timeout=self.deadline_seconds)
        new, _ = self.aggregate_train(number, replies)
        return {name: packed.numpy() for name, packed in new.items()}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Messages to every site of this round, with the content and options of the wrapped strategy."""
        self._since = time.monotonic()
        self._sent, self._metrics = {name: packed.numpy() for name, packed in arrays.items()}, {}
        content = next(iter(self.strategy.configure_train(server_round, arrays, config, grid))).content
        content.update(wire.models_to_records(self.other_models))
        sites = self.sites if self.chosen is None else self.chosen(server_round)
        return [Message(content, node, self.call) for node, site in self.grid.nodes.items() if site in sites]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord | None]:
        """Aggregate the sound updates with the strategy within; raises RunError as `round` does."""
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
        outside: dict[str, str] = {}
        if self.find_outlying and len(used) >= FEWEST:  # before the strategy, which may take the updates apart
            outside = outlying((site, self._change(wire.arrays_of(used[site]))) for site in sorted(used))
        arrays, metrics = self.strategy.aggregate_train(server_round, self._for_strategy(used))
        new = self._checked(server_round, arrays, len(used))
        found = {site: self._metrics[site] for site in used}
        self.on_round(RoundOutcome(server_round, found, refused, lost, time.monotonic() - self._since, outside))
        return wire.arrays_to_record(new), metrics

    def _sound(self, number: int, response: SiteResponse) -> RecordDict:
        """The content of an update that can be aggregated; raises ReleaseError where it cannot."""
        found, site = response.of(Update).metrics.figures(), response.site
        weight, most = found.get(WEIGHT, 0), None if self.most is None else self.most.get(site, 0)
        if not weight:
            raise ReleaseError(f"an update without {WEIGHT}", expected="at least 1")
        if most is not None and weight > most:
            raise ReleaseError(f"an update of {weight:.0f} training clips", expected=f"at most {most}, as released")
        content = response.content or RecordDict()
        update = checked_update(self._sent, content, max_norm=self.max_norm)
        if self.check is not None:
            self.check(number, update)
        self._metrics[site] = found
        if self.on_update is not None:
            self.on_update(number, site, partial(self._change, update))
        return content

    def _require(self, number: int, used: dict[str, RecordDict], refused: dict[str, str], lost: dict[str, str]) -> None:
        if len(used) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted((refused | lost).items())[:3])
            raise RunError(
                f"{len(used)} usable updates in round {number} of {self.call} ({why})",
                expected=f"at least {self.min_sites}",
                fix="look into the logs of the sites named",
            )

    def _for_strategy(self, used: dict[str, RecordDict]) -> list[Message]:
        """The replies that the strategy within aggregates."""
        weights = self.weights({site: self._metrics[site][WEIGHT] for site in used})
        return [bare_reply(used[site][wire.ARRAYS], weights[site]) for site in sorted(used)]

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


def bounded_weights(stated: Mapping[str, float]) -> dict[str, float]:
    """The weight of each site's update: the number of clips that it states, cut to `MOST_WEIGHT` times the median.

    The server cannot check the stated numbers yet. Of two in the middle the smaller is the median, so that one site of
    two does not decide alone.
    """
    middle = sorted(stated.values())[(len(stated) - 1) // 2]
    return {site: min(units, MOST_WEIGHT * middle) for site, units in stated.items()}


def bare_reply(arrays: Any, weight: float) -> Message:
    """Flower's strategies want arrays and metrics and nothing else, with the same names in every reply."""
    content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({WEIGHT: weight})})
    return Message(content, dst_node_id=1, message_type="train")


def checked_update(expected: Weights, content: RecordDict, *, max_norm: float = MAX_NORM) -> Weights:
    """The arrays of an update whose change has at most `max_norm` (L2); sizes are checked before unpacking.

    Raises ReleaseError for the first wrong name, size, shape, type, value or norm.
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


def outlying(changes: Iterable[tuple[str, Mapping[str, Array]]]) -> dict[str, str]:
    """Sites whose update is much longer or shorter than the others', or points against them, and how, as text.

    They are reported and not dropped: a site with other people may be right. A robust strategy would drop them. Lengths
    are of all values, directions of some thousands of them; one update is looked at at a time.
    """
    sites, lengths_of, some = [], [], []
    for site, change in changes:
        row = np.concatenate([np.ravel(change[name]) for name in sorted(change)]).astype(np.float64, copy=False)
        sites.append(site)
        lengths_of.append(float(np.linalg.norm(row)))
        some.append(row[:: -(-len(row) // _VALUES)])
    if len(sites) < FEWEST:
        return {}
    norms, rows = np.array(lengths_of), np.stack(some)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-300)[:, None]
    others = units.sum(axis=0) - units
    lengths = np.linalg.norm(others, axis=1)
    cosines = np.einsum("ij,ij->i", units, others) / np.maximum(lengths, 1e-300)
    far = _distance(np.log(np.maximum(norms, 1e-12)), _LEAST_LENGTH)
    against = _distance(cosines, _LEAST_COSINE)
    found: dict[str, str] = {}
    for index, site in enumerate(sites):
        if abs(far[index]) > _FAR:
            found[site] = f"of length {norms[index]:.3g}, where the median is {np.median(norms):.3g}"
        elif against[index] < -_FAR:
            found[site] = f"of cosine {cosines[index]:.2f} to the others, where the median is {np.median(cosines):.2f}"
    return found


def _distance(values: Float64, least: float) -> Float64:
    """Distances from the median, in robust standard deviations, to which `least` is added."""
    middle = np.median(values)
    distance: Float64 = (values - middle) / (1.4826 * np.median(np.abs(values - middle)) + least)
    return distance
