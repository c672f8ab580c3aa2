"""What a metric is, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from moretta.shared.core.errors import RunError
from moretta.shared.core.plugins import Registry

ScoreKind = Literal["trials", "ranking", "similarity"]
F = TypeVar("F", bound=Callable[[Any], float | None])


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    `function` maps `Trials`, `Ranking` or `Dominance`, by `kind`, to a number, or to None where the trials cannot
    resolve it.
    `chance` is what an attacker without information gets: a number, or a function of the number of enrolled speakers.
    `private` says whether high or low values mean that identity is hidden; the worst-off speaker is found by it.
    `needs_llr` marks metrics that are only meaningful for calibrated natural log-likelihood ratios.
    `tag` puts a value into a category of a published scale.
    """

    name: str
    function: Callable[[Any], float | None]
    kind: ScoreKind
    unit: str
    chance: float | Callable[[int], float]
    private: Literal["high", "low"]
    needs_llr: bool = False
    tag: Callable[[float], str] | None = None

    def chance_among(self, speakers: int) -> float:
        """The chance value with so many enrolled speakers."""
        return self.chance(speakers) if callable(self.chance) else self.chance

    def worst(self, values: Mapping[int, float]) -> int | None:
        """The key of the least private value; of equal ones the smallest key. None of an empty mapping."""
        sign = 1.0 if self.private == "high" else -1.0
        return min(values, key=lambda key: (sign * values[key], key), default=None)


METRICS: Registry[Metric] = Registry(
    "metric", group="moretta.metrics", package="moretta.shared.audit.metrics", error=RunError
)


def metric(
    name: str,
    *,
    unit: str,
    chance: float | Callable[[int], float],
    private: Literal["high", "low"],
    kind: ScoreKind = "trials",
    needs_llr: bool = False,
    tag: Callable[[float], str] | None = None,
) -> Callable[[F], F]:
    """Register a pure function as a metric."""

    def register(function: F) -> F:
        METRICS.add(name, Metric(name, function, kind, unit, chance, private, needs_llr, tag))
        return function

    return register


def get_metric(name: str) -> Metric:
    """Find a metric by name.

    Raises:
        RunError: unknown name; the message lists the known ones.
    """
    return METRICS.get(name)


def metrics_of(kind: ScoreKind) -> list[Metric]:
    """All metrics of one kind, by name."""
    return [found for found in METRICS.items() if found.kind == kind]


def leaks_when_low(name: str) -> bool:
    """Whether low values of a metric mean that identity leaks; no metric that is not registered does."""
    return name in METRICS and get_metric(name).private == "high"
