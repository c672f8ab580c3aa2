"""Gaussian noise, exactly: Balle and Wang, ICML 2018, "Improving the Gaussian Mechanism for Differential Privacy"."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.mechanism import ORDERS, RETIRED, Curve, Mechanism, check_positive, mechanism

_ROUNDING = 2.0**-50
"""Four times that of a float64: of each step between the arguments and the two probabilities."""
_SMALLEST, _LARGEST = 1e-18, 1e18


def gaussian_delta(epsilon: float, ratio: float) -> float:
    """The least delta at `epsilon` (theorem 8 of the paper), rounded up.

    It is the difference of two numbers that are nearly equal where delta is small: each is moved by as much as float64
    may have lost of it, to the side that makes delta larger.

    Args:
        epsilon: at least 0.
        ratio: sensitivity over standard deviation, mu in the language of Gaussian differential privacy.
    """
    from scipy.special import log_ndtr, ndtr

    if ratio == 0:
        return 0.0
    half, tilt = ratio / 2, epsilon / ratio
    lost = _ROUNDING * (half + tilt)
    first = float(ndtr(half - tilt + lost)) * (1 + _ROUNDING)
    tail = float(log_ndtr(-half - tilt - lost))
    second = math.exp(min(epsilon + tail - _ROUNDING * (epsilon - tail), 0.0)) * (1 - _ROUNDING)
    return max(first - second, 0.0)


def gaussian_epsilon(delta: float, ratio: float) -> float:
    """The least epsilon at `delta`; 0.0 where the noise alone keeps below it. Raises ValueError: delta is not in (0,
    1): a Gaussian has no pure guarantee."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, it must lie between 0 and 1")
    if gaussian_delta(0.0, ratio) <= delta:
        return 0.0
    return least(lambda epsilon: gaussian_delta(epsilon, ratio) <= delta, start=1.0)


def calibrated_sigma(*, epsilon: float, delta: float, sensitivity: float) -> float:
    """The least standard deviation that gives `epsilon` at `delta`.

    >>> round(calibrated_sigma(epsilon=1.0, delta=1e-5, sensitivity=1.0), 3)
    3.73
    """
    check_positive("gaussian", epsilon=epsilon, delta=delta, sensitivity=sensitivity)
    return sensitivity * least(lambda sigma: gaussian_delta(epsilon, 1 / sigma) <= delta, start=1.0)


@mechanism("gaussian")
@dataclass(frozen=True, kw_only=True)
class Gaussian(Mechanism):
    """Gaussian noise on a vector whose L2 norm is clipped, so that one unit moves it by `distance` at most."""

    invalidated_by: ClassVar[tuple[str, ...]] = (
        "the vector is not clipped to its ball before the noise is added",
        "the ball, or what the vector is scaled or projected by, is taken from the clips themselves",
        "the noise is seeded, or drawn again for the same clip without being counted",
    )
    grows: ClassVar[str] = "distance"
    sigma: float
    distance: float
    """L2 distance between what any two neighbours give: twice the radius of the ball under `replace`."""

    def __post_init__(self) -> None:
        check_positive("gaussian", sigma=self.sigma, distance=self.distance)

    @property
    def ratio(self) -> float:
        """Distance over standard deviation."""
        return self.distance / self.sigma

    def renyi(self) -> Curve:
        """Order times squared ratio over two (Mironov, CSF 2017, proposition 7)."""
        curve: Curve = np.asarray(ORDERS) * self.ratio**2 / 2
        return curve

    def epsilon(self, delta: float) -> float | None:
        """Exact; None at delta 0."""
        return gaussian_epsilon(delta, self.ratio) if delta > 0 else None

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> Self:
        """Each unit moves its own vector by `distance`: together they move by root `size` as far."""
        return replace(self, distance=self.distance * math.sqrt(size), unit=unit)


def _of_lloyd(*, noise_multiplier: float, iterations: int, group: int, unit: PrivacyUnit) -> Gaussian:
    """The sums of a federated codebook, which there is no more: one Gaussian of root `iterations` the reach."""
    check_positive("DP Lloyd", iterations=iterations, group=group)
    return Gaussian(sigma=noise_multiplier, distance=group * math.sqrt(iterations), unit=unit)


RETIRED["dp-lloyd"] = _of_lloyd


def least(holds: Callable[[float], bool], *, start: float, factor: float = 2.0, precision: float = 1e-12) -> float:
    """The least positive number from which on `holds` is true; infinity if it is false at 1e18 times the start.

    Args:
        holds: false below some number and true from it on.
        start: near the result.
        factor: steps in which the result is enclosed.
        precision: relative.

    >>> round(least(lambda x: x * x >= 2, start=1.0), 9)
    1.414213562
    """
    high = start
    while not holds(high):
        high *= factor
        if high > _LARGEST * start:
            return math.inf
    low = high / factor
    while low > _SMALLEST * start and holds(low):
        low, high = low / factor, low
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
