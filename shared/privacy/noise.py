"""Sources of privacy noise: the operating system in deployment, a seed in simulation and tests only.

Anybody with the seed can subtract seeded noise, so a release made with it protects nobody. Statements say which source
was used.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np

from moretta.shared.core.array_types import Array, Float32, Float64

_DRAWS = 4
"""Gaussians whose sum, over 2, is one of the same spread. From the way floating-point numbers are drawn follows which
of them one draw cannot give (Mironov's attack); to undo a sum of 2 n draws takes 2^(53 (2 n - 1)) trials (Holohan and
Braghin, ESORICS 2021, "Secure Random Sampling in Differential Privacy", section 5.1; as Opacus' secure mode does)."""
_DIRECT_BYTES = 2_048
"""Up to here asking the kernel is quicker than a cipher."""
_LEAST_STEP = -120.0
"""As a power of two: a finer grid would be none in float32, and dividing by it would overflow."""


class NoiseSource(ABC):
    """Draws noise of a shape. Floating-point noise leaks through its low bits (Mironov, CCS 2012, "On significance
    of the least significant bits"): releases are cast to float32 or tokens, which removes the porous bits."""

    kind: ClassVar[Literal["system", "seeded"]]

    @abstractmethod
    def uniform(self, shape: tuple[int, ...]) -> Float64:
        """Uniform on (0, 1), both ends excluded."""

    def laplace(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Laplace with mean 0 and the given scale, by inversion."""
        centred = self.uniform(shape) - 0.5
        return -scale * np.sign(centred) * np.log1p(-2.0 * np.abs(centred))

    @abstractmethod
    def normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Gaussian with mean 0 and the given standard deviation."""

    @abstractmethod
    def private_normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Normal noise for values that a guarantee rests on: see `_DRAWS`."""


class SystemNoise(NoiseSource):
    """Noise from the operating system's generator: nobody can replay it."""

    kind = "system"

    def uniform(self, shape: tuple[int, ...]) -> Float64:
        """Uniform on (0, 1) with 52 random bits each: with the half that is added, all that a float64 holds."""
        words = np.frombuffer(_system_bytes(8 * int(np.prod(shape))), dtype="<u8") >> np.uint64(12)
        values = words.astype(np.float64)
        values += 0.5
        values *= 2.0**-52
        return values.reshape(shape)

    def normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Gaussian by inversion of its distribution function."""
        import torch

        centred = 2.0 * self.uniform(shape) - 1.0  # exact: odd multiples of 2^-52
        noise: Float64 = torch.from_numpy(centred).erfinv_().numpy() * (scale * np.sqrt(2.0))
        return noise

    def private_normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Sum of four draws, over two."""
        total: Float64 = self.normal(scale / 2, (_DRAWS, *shape)).sum(axis=0)
        return total


def _system_bytes(count: int) -> bytes:
    """Random bytes. Many of them are the stream of AES in counter mode under a key of 256 bits that the operating
    system drew for this call alone: what the kernel does with ChaCha20, at a tenth of the time. The key is not kept."""
    if count <= _DIRECT_BYTES:
        return os.urandom(count)
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor().update(bytes(count))


class SeededNoise(NoiseSource):
    """Replayable noise for simulation and tests. Each label set (site, clip, round) has a stream of its own."""

    kind = "seeded"

    def __init__(self, seed: int, *labels: str | int) -> None:
        digest = hashlib.sha256("\x1f".join(map(str, (seed, *labels))).encode()).digest()
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

    def uniform(self, shape: tuple[int, ...]) -> Float64:
        """Uniform on (0, 1)."""
        return np.clip(self._generator.random(shape), 2.0**-54, 1.0 - 2.0**-53)

    def normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """Gaussian."""
        return scale * self._generator.standard_normal(shape)

    def private_normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        """See `normal`: an attacker with the seed needs no attack."""
        return self.normal(scale, shape)


def on_grid(values: Float64, scale: float) -> Float32:
    """Noisy values rounded to a fixed grid of 2^-12 scales of their noise, as float32: no bit finer than that leaves.

    Args:
        values: with noise of `scale` added, at most about 4,000 scales in size.
        scale: of the noise; the grid depends on nothing else.
    """
    step = 2.0 ** max(np.floor(np.log2(scale) - 12), _LEAST_STEP)
    return np.asarray(np.round(values / step) * step, np.float32)


def bounded(values: Array, limit: float) -> Float64:
    """Values cut to +- `limit`; 0 where there is no number."""
    cut = np.clip(np.asarray(values, np.float64), -limit, limit)
    missing = np.isnan(cut)
    return np.where(missing, 0.0, cut) if missing.any() else cut


def in_ball(values: Array, radius: float) -> Float64:
    """A vector cut to an L2 norm of `radius`; zeros where it has no norm, as of a value that is not finite."""
    exact = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(exact))
    if not np.isfinite(length):
        return np.zeros(exact.shape)
    return exact if length <= radius else exact * (radius / length)
