"""A Flower strategy between two guards: what goes out is addressed, what comes in is checked, sorted and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from moretta.server.aggregation.checks import MAX_NORM, packed_problem, update_problem
from moretta.server.aggregation.outlying import FEWEST, outlying
from moretta.server.grid.pending_request import SiteResponse
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.site_failures import noting_failure_of
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Update
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg

WEIGHT = "num-examples"
Weights = dict[str, wire.Array]


class Mean(Protocol):
    """Makes one update of all of them, which the strategy takes in their place."""

    def __call__(self, number: int, sent: Weights, updates: Mapping[str, Weights]) -> Weights:
        """The weights that stand for those of all sites, in this round."""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What one round of training brought."""

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
class GuardedStrategy:
    """Wraps one of Flower's strategies, without Flower's own loop: that waits for ever where no site is there.

    Answers are taken in order of site names, because a floating-point sum depends on its order; a site that answers
    twice counts once.
    """

    inner: FedAvg
    site_grid: SiteGrid
    sites: list[str]
    call: str
    study: Study
    min_sites: int
    on_round: Callable[[RoundOutcome], None]
    on_update: Callable[[int, str, Callable[[], Weights]], None] | None = None
    """Told of every sound update as it is checked: round, site, and how to get what it changes."""
    mean: Mean | None = None
    """Where no single update may be told from the aggregate; else sites weigh by their clips."""
    deadline_seconds: float | None = None
    max_norm: float = MAX_NORM
    most: Mapping[str, int] | None = None
    """What an update may weigh at most, by site; None where nobody knows."""
    beside: Mapping[ModelKind, Weights] = field(default_factory=dict)
    """Other models, finished, that the sites need for this one."""
    _sent: Weights = field(default_factory=dict)
    _metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    def round(self, number: int, weights: Weights) -> Weights:
        """One round: send the global weights, check what comes back, aggregate what is sound.

        Raises:
            RunError: fewer than `min_sites` usable updates came, or too few for the strategy.
        """
        since = time.monotonic()
        self._sent, self._metrics = weights, {}
        used, refused, lost = self._requested(number, self._question(number))
        self._require(used, refused | lost, number)
        outside = self._outlying(used)  # before the strategy, which may take the updates apart
        new = self._aggregated(number, used)
        metrics = {site: self._metrics[site] for site in used}
        self.on_round(RoundOutcome(number, metrics, refused, lost, time.monotonic() - since, outside))
        return new

    def _outlying(self, used: dict[str, RecordDict]) -> dict[str, str]:
        """None where no single update may be told from the aggregate."""
        if self.mean is not None or len(used) < FEWEST:
            return {}
        return outlying((site, self._change(wire.arrays_of(used[site]))) for site in sorted(used))

    def _weighed(self, site: str, update: Update) -> dict[str, float]:
        """What an update says of itself.

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

    def _requested(
        self, number: int, question: RecordDict
    ) -> tuple[dict[str, RecordDict], dict[str, str], dict[str, str]]:
        """Usable answers, why others are not usable, and why some are not there, each by site."""
        responses = self.site_grid.ask(
            self.call, lambda _: question, sites=self.sites, deadline_seconds=self.deadline_seconds
        )
        used: dict[str, RecordDict] = {}
        refused: dict[str, str] = {}
        for response in responses:
            problem = self._problem(number, response)
            if response.content is not None and not problem:
                used[response.site] = response.content
            elif not response.lost:
                refused[response.site] = problem
        return used, refused, {response.site: response.failure for response in responses if response.lost}

    def _question(self, number: int) -> RecordDict:
        """What the inner strategy would send, with its options."""
        nodes: Any = _Nodes(self.site_grid)
        arrays, config = wire.arrays_to_record(self._sent), wire.study_config(self.study)
        question = next(iter(self.inner.configure_train(number, arrays, config, nodes))).content
        question.update(wire.models_to_records(self.beside))
        return question

    def _problem(self, number: int, response: SiteResponse) -> str:
        """Why an answer cannot be aggregated; empty if it can."""
        failures: dict[str, str] = {}
        with noting_failure_of(response.site, failures):
            metrics = self._weighed(response.site, response.of(Update))
            content = response.content or RecordDict()
            problem = packed_problem(self._sent, content)
            if problem is None:
                update = wire.arrays_of(content)
                problem = update_problem(self._sent, update, max_norm=self.max_norm)
            if problem is not None:
                return problem
            self._metrics[response.site] = metrics
            if self.on_update is not None:
                self.on_update(number, response.site, partial(self._change, update))
        return failures.get(response.site, "")

    def _require(self, used: dict[str, RecordDict], others: dict[str, str], number: int) -> None:
        if len(used) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(others.items())[:3])
            raise RunError(
                f"{len(used)} usable updates in round {number} of {self.call} ({why})",
                expected=f"at least {self.min_sites}",
                fix="look into the logs of the sites named",
            )

    def _aggregated(self, number: int, used: dict[str, RecordDict]) -> Weights:
        arrays, _ = self.inner.aggregate_train(number, self._messages(number, used))
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
                f"{name} gave weights that are not finite in round {number}",
                expected="finite weights",
                fix="lower the learning rates in [train]",
            )
        return kept_types

    def _messages(self, number: int, used: dict[str, RecordDict]) -> list[Message]:
        """What the strategy aggregates."""
        if self.mean is None:
            return [bare(used[site][wire.ARRAYS], self._metrics[site][WEIGHT]) for site in sorted(used)]
        mean = self.mean(number, self._sent, {site: wire.arrays_of(content) for site, content in used.items()})
        return [bare(wire.arrays_to_record(mean), 1.0)]

    def _change(self, update: Weights) -> Weights:
        return {name: np.asarray(array - self._sent[name]) for name, array in update.items()}

    def _as_sent(self, arrays: Weights) -> Weights:
        """Some strategies compute in float64: the next round's weights have the types that sites expect."""
        return {name: array.astype(self._sent[name].dtype, copy=False) for name, array in arrays.items()}


class _Nodes:
    """As much of a grid as Flower's sampling asks for: who takes part, whether or not they are there at this moment."""

    def __init__(self, site_grid: SiteGrid) -> None:
        self._ids = list(site_grid.nodes)

    def get_node_ids(self) -> Sequence[int]:
        return self._ids


def bare(arrays: Any, weight: float) -> Message:
    """Flower's strategies want arrays and metrics and nothing else, with the same names in every reply."""
    bare = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({WEIGHT: weight})})
    return Message(bare, dst_node_id=1, message_type="train")
