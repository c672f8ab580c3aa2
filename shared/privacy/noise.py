"""Where privacy noise comes from: the operating system in deployment, a seed in simulation and tests only.

Who knows the seed can subtract seeded noise, so a release made with it protects nobody; statements say which was used.
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class NoiseSource(Protocol):
    """Draws noise of a shape. Floating-point noise leaks through its low bits (Mironov, CCS 2012, "On significance
    of the least significant bits"): releases are cast to float32 or tokens, which removes the porous bits."""

    kind: Literal["system", "seeded"]

    def uniform(self, shape: tuple[int, ...]) -> Floats:
        """Uniform on (0, 1), both ends excluded."""

    def laplace(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Laplace with mean 0 and the given scale."""

    def normal(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Gaussian with mean 0 and the given standard deviation."""


def _laplace(uniform: Floats, scale: float) -> Floats:
    centred = uniform - 0.5
    return -scale * np.sign(centred) * np.log1p(-2.0 * np.abs(centred))


class SystemNoise:
    """Noise from the operating system's generator: nobody can replay it."""

    kind: Literal["system", "seeded"] = "system"

    def uniform(self, shape: tuple[int, ...]) -> Floats:
        """Uniform on (0, 1) with 53 random bits each."""
        count = int(np.prod(shape))
        words = np.frombuffer(os.urandom(8 * count), dtype="<u8") >> np.uint64(11)
        return ((words.astype(np.float64) + 0.5) * 2.0**-53).reshape(shape)

    def laplace(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Laplace by inversion."""
        return _laplace(self.uniform(shape), scale)

    def normal(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Gaussian by inversion of its distribution function."""
        from scipy.special import ndtri

        noise: Floats = scale * ndtri(self.uniform(shape))
        return noise


class SeededNoise:
    """Replayable noise for simulation and tests. Each label set (site, clip, round) has a stream of its own."""

    kind: Literal["system", "seeded"] = "seeded"

    def __init__(self, seed: int, *labels: str | int) -> None:
        digest = hashlib.sha256("\x1f".join(map(str, (seed, *labels))).encode()).digest()
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

    def uniform(self, shape: tuple[int, ...]) -> Floats:
        """Uniform on (0, 1)."""
        return np.clip(self._generator.random(shape), 2.0**-54, 1.0 - 2.0**-53)

    def laplace(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Laplace by inversion, as the system's."""
        return _laplace(self.uniform(shape), scale)

    def normal(self, scale: float, shape: tuple[int, ...]) -> Floats:
        """Gaussian."""
        return scale * self._generator.standard_normal(shape)
