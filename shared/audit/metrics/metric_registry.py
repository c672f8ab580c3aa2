"""The registry of metrics: name, chance value, and which direction means private."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["trials", "ranking", "similarity"]
Value = float | None
F = TypeVar("F", bound=Callable[[Any], Value])


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
    function: Callable[[Any], Value]
    kind: Kind
    unit: str
    chance: float | Callable[[int], float]
    private: Literal["high", "low"]
    needs_llr: bool = False
    tag: Callable[[float], str] | None = None

    def chance_among(self, speakers: int) -> float:
        """The chance value with so many enrolled speakers."""
        return self.chance(speakers) if callable(self.chance) else self.chance

    def worst(self, values: dict[int, float]) -> int | None:
        """The key of the least private value; of equal ones the smallest key. None of an empty dict."""
        sign = 1.0 if self.private == "high" else -1.0
        return min(values, key=lambda key: (sign * values[key], key), default=None)


_REGISTRY: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    unit: str,
    chance: float | Callable[[int], float],
    private: Literal["high", "low"],
    kind: Kind = "trials",
    needs_llr: bool = False,
    tag: Callable[[float], str] | None = None,
) -> Callable[[F], F]:
    """Register a pure function as a metric. A second one of the same name is a defect and raises ValueError."""

    def register(function: F) -> F:
        if name in _REGISTRY:
            raise ValueError(f"two metrics are called {name!r}")
        _REGISTRY[name] = Metric(name, function, kind, unit, chance, private, needs_llr, tag)
        return function

    return register


def get_metric(name: str) -> Metric:
    """Find a metric by name.

    Raises:
        KeyError: unknown name; the message lists the known ones.
    """
    _load_all()
    if name not in _REGISTRY:
        raise KeyError(f"no metric is called {name!r}; known: {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def metrics_of(kind: Kind) -> list[Metric]:
    """All metrics of one kind, by name."""
    _load_all()
    return [_REGISTRY[name] for name in sorted(_REGISTRY) if _REGISTRY[name].kind == kind]


def _load_all() -> None:
    package = importlib.import_module("moretta.shared.audit.metrics")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"moretta.shared.audit.metrics.{module.name}")
