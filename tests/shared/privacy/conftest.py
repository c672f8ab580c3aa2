"""An oracle of its own: the distribution of the privacy loss, summed up on a grid, with losses rounded up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class LossDistribution:
    """Probabilities of the privacy loss, which lies at `lowest + step * i`. Nothing in it is Moretta's or Opacus'."""

    lowest: float
    step: float
    masses: np.ndarray

    @classmethod
    def of(cls, losses: np.ndarray, masses: np.ndarray, step: float = 1e-3) -> LossDistribution:
        numbers = np.ceil(losses / step).astype(int)
        first = numbers.min()
        return cls(first * step, step, np.bincount(numbers - first, weights=masses))

    @classmethod
    def of_densities(
        cls, p: Callable[[np.ndarray], np.ndarray], q: Callable[[np.ndarray], np.ndarray], low: float, high: float
    ) -> LossDistribution:
        """From two densities, positive between `low` and `high`, where all but a negligible part of p lies."""
        x, width = np.linspace(low, high, 400_001, retstep=True)
        return cls.of(np.log(p(x) / q(x)), p(x) * width)

    def composed(self, times: int) -> LossDistribution:
        size = 1 << int(np.ceil(np.log2(len(self.masses) * times)))
        masses = np.fft.irfft(np.fft.rfft(self.masses, size) ** times, size).clip(0)
        return LossDistribution(self.lowest * times, self.step, masses)

    def delta(self, epsilon: float) -> float:
        """The hockey-stick divergence."""
        losses = self.lowest + self.step * np.arange(len(self.masses))
        inference = losses > epsilon
        return float(((1 - np.exp(epsilon - losses[inference])) * self.masses[inference]).sum())

    def epsilon(self, delta: float) -> float:
        low, high = 0.0, 1000.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if self.delta(middle) <= delta else (middle, high)
        return high


@pytest.fixture
def oracle() -> type[LossDistribution]:
    return LossDistribution
