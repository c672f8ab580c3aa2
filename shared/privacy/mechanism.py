"""Privacy mechanisms: unit, neighbours, sensitivity, what invalidates it, and what it loses.

Losses are curves of Renyi divergence, which add up (Mironov, CSF 2017).
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np

from moretta.shared.core.array_types import Float64
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import PrivacyUnit

Curve = Float64
"""Renyi divergence at each of `ORDERS`."""
ORDERS: tuple[float, ...] = (
    *(1.001, 1.002, 1.005, 1.01, 1.02, 1.05),
    *(1 + x / 10.0 for x in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(72.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Orders of Opacus' own accountant, larger ones for small losses, and smaller ones for losses in the thousands."""
_LOG_ERROR = 1e-11
"""Of the logarithm of a moment, computed in float64 by sums of up to a thousand terms, each of which is known to about
1e-12, and cut off at 1e-13."""
Relation = Literal["replace", "zero-out", "add-or-remove"]
"""Which two data sets are neighbours. `replace`: one unit's content is any other content. `zero-out`: its content
is nothing, such as silence or a gradient of zero, but its place stays. `add-or-remove`: the unit is there or not.

A guarantee under `replace` holds under `zero-out` too. So does one under `add-or-remove` of a sum to which an absent
unit adds nothing (Kairouz et al., ICML 2021, "Practical and Private (Deep) Learning without Sampling or Shuffling",
section 2). So `zero-out` is what mechanisms of different kinds have in common, and what they are composed under."""


class Sensitivity(NamedTuple):
    """The largest distance by which one unit moves the input of the noise."""

    value: float
    norm: Literal["L1", "L2", "choice"]
    """`choice`: one of several is chosen, and another unit may choose another."""


@dataclass(frozen=True, kw_only=True)
class Mechanism(ABC):
    """One privacy mechanism with all its numbers: a frozen object that can be written to a ledger and read again."""

    kind: ClassVar[str]
    """Name in ledgers: never changed, never used again for something else."""
    relation: ClassVar[Relation] = "replace"
    invalidated_by: ClassVar[tuple[str, ...]]
    """Conditions under which the guarantee is invalid."""
    grows: ClassVar[str]
    """The number that grows with the size of a group."""
    norm: ClassVar[Literal["L1", "L2", "choice"]] = "L2"
    unit: PrivacyUnit = "clip"

    @property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity in the units of the vector, in scales of the noise, in clipping norms, or in choices."""
        return Sensitivity(float(getattr(self, self.grows)), self.norm)

    @property
    def pure_epsilon(self) -> float | None:
        """Epsilon at delta 0; None if there is none."""
        return None

    @abstractmethod
    def renyi(self) -> Curve:
        """Renyi divergence between neighbours at each of `ORDERS`: what adds up when mechanisms are composed."""

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> Self:
        """The loss of `size` units that change together, each released by a run of this mechanism of its own."""
        return replace(self, unit=unit, **{self.grows: getattr(self, self.grows) * size})

    def epsilon(self, delta: float) -> float | None:
        """The least epsilon that is proven at `delta`; None if no finite one is."""
        return epsilon_of(self.renyi(), delta=delta, pure=self.pure_epsilon)

    def record(self) -> dict[str, Any]:
        """The mechanism as plain JSON values, as a ledger keeps it."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}


_KINDS: dict[str, type[Mechanism]] = {}
RETIRED: dict[str, Callable[..., Mechanism]] = {}
"""How to read mechanisms of earlier versions: what a ledger has of them stays spent."""
M = TypeVar("M", bound=type[Mechanism])


def mechanism(kind: str) -> Callable[[M], M]:
    """Register a class under its name in ledgers. A second one of the same name is a defect and raises ValueError."""

    def register(cls: M) -> M:
        if kind in _KINDS:
            raise ValueError(f"two mechanisms are called {kind!r}")
        cls.kind = kind
        _KINDS[kind] = cls
        return cls

    return register


def from_record(record: dict[str, Any]) -> Mechanism:
    """Read what `record` wrote. Raises ReleaseError for an unknown kind, or numbers that it does not take."""
    kind = str(record.get("kind"))
    if kind not in _KINDS:
        package = importlib.import_module("moretta.shared.privacy")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"moretta.shared.privacy.{module.name}")
    known = _KINDS.get(kind) or RETIRED.get(kind)
    if known is None:
        raise ReleaseError(f"the privacy mechanism {record.get('kind')!r}", expected=f"one of: {', '.join(_KINDS)}")
    try:
        return known(**{name: value for name, value in record.items() if name != "kind"})
    except (TypeError, ValueError) as error:
        raise ReleaseError(f"a privacy mechanism {kind} that cannot be: {error}") from error


@mechanism("unbounded")
@dataclass(frozen=True, kw_only=True)
class Unbounded(Mechanism):
    """Something left that has no finite guarantee at this unit."""

    invalidated_by: ClassVar[tuple[str, ...]] = ()
    why: str

    @property
    def sensitivity(self) -> Sensitivity:
        """Without a limit."""
        return Sensitivity(float("inf"), "L2")

    def renyi(self) -> Curve:
        """Infinite at every order."""
        return np.full(len(ORDERS), np.inf)

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> Self:  # noqa: ARG002
        """Still without a guarantee."""
        return replace(self, unit=unit)


@mechanism("pure")
@dataclass(frozen=True, kw_only=True)
class Pure(Mechanism):
    """Anything that guarantees `total` at delta 0, and says no more of itself."""

    invalidated_by: ClassVar[tuple[str, ...]] = ("whatever invalidates the guarantee that was stated",)
    grows: ClassVar[str] = "total"
    total: float

    def __post_init__(self) -> None:
        check_positive("a pure guarantee", total=self.total)

    @property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity, as far as a guarantee without a mechanism has one."""
        return Sensitivity(1.0, "choice")

    @property
    def pure_epsilon(self) -> float:
        """The stated epsilon."""
        return self.total

    def renyi(self) -> Curve:
        """At most that of one biased coin: every pure mechanism is one, seen through noise (Kairouz, Oh and Viswanath,
        ICML 2015, theorem 2.6)."""
        heads = 1 / (1 + np.exp(-self.total))
        coin = np.array([heads, np.exp(-self.total) * heads])
        return np.minimum(renyi_of_table(coin, coin[::-1]), self.total)


def check_positive(owner: str, **values: float) -> None:
    """Raise ValueError with the offending value if one is not a positive, finite number."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{owner}: {name} is {value}, it must be positive and finite")


def rounded_up(curve: Curve, orders: tuple[float, ...] = ORDERS) -> Curve:
    """A computed curve that is nowhere below the true one: small losses vanish in the rounding of a moment near 1."""
    upper: Curve = np.maximum(curve, 0.0) * (1 + 1e-9) + _LOG_ERROR / (np.asarray(orders) - 1)
    return upper


def least_epsilon(delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """The epsilon of a loss of next to nothing by these orders: no target below it can be reached.

    >>> round(least_epsilon(1e-5), 4)
    0.0035
    """
    return epsilon_of(np.full(len(orders), 1e-300), delta=delta, orders=orders) or 0.0


def epsilon_of(
    curve: Curve, *, delta: float, pure: float | None = None, orders: tuple[float, ...] = ORDERS
) -> float | None:
    """Epsilon at `delta`, by the conversion of Balle et al. (AISTATS 2020, theorem 21), as Opacus computes it; None if
    nothing finite is guaranteed.

    Args:
        delta: 0 for a pure guarantee.
        pure: epsilon at delta 0 where there is one: it holds at every delta.
        orders: of the curve. Each proves a bound of its own: fewer give a larger epsilon, never a wrong one.

    >>> epsilon_of(np.zeros(len(ORDERS)), delta=1e-5)
    0.0
    """
    if not curve.any():
        return 0.0
    bounds = [] if pure is None else [pure]
    if delta > 0 and np.isfinite(curve).any():
        alpha = np.asarray(orders)
        at = curve - (np.log(delta) + np.log(alpha)) / (alpha - 1) + np.log((alpha - 1) / alpha)
        bounds.append(max(float(np.nanmin(at)), 0.0))
    return min(bounds, default=None)


def renyi_of_table(p: Curve, q: Curve) -> Curve:
    """Renyi divergence of two distributions over few outcomes, each [outcomes], positive, of sum 1: the larger of both
    directions."""
    from scipy.special import logsumexp

    orders = np.asarray(ORDERS)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # an outcome that never comes reveals without limit
        log_p, log_q = np.log(p)[None], np.log(q)[None]
        there = logsumexp(orders * log_p + (1 - orders) * log_q, axis=1)
        back = logsumexp(orders * log_q + (1 - orders) * log_p, axis=1)
    curve: Curve = np.maximum(there, back) / (orders[:, 0] - 1)
    return rounded_up(np.where(np.isnan(curve), np.inf, curve))
