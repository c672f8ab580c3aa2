"""Where the chances of DP-SGD come from: which units are sampled, and the noise on their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from moretta.shared.privacy.noise import SystemNoise, on_grid

if TYPE_CHECKING:
    import torch


class Randomness(Protocol):
    """Chooses and disturbs."""

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """A Poisson sample: bool [units], each true with probability `rate` by itself."""

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """A gradient with Gaussian noise of standard deviation `scale` on every value."""

    def order(self, size: int) -> torch.Tensor:
        """A permutation, int64 [size]: for training without DP-SGD."""


class SeededRandomness:
    """Replayable: for simulation and tests. Who knows the seed can take the noise away again."""

    def __init__(self, seed: int) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(seed)

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """By torch's generator."""
        import torch

        return torch.rand(units, generator=self._generator) < rate

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """By torch's generator."""
        import torch

        noise = torch.normal(0.0, scale, gradient.shape, generator=self._generator, dtype=gradient.dtype)
        return gradient + noise

    def order(self, size: int) -> torch.Tensor:
        """By torch's generator."""
        import torch

        return torch.randperm(size, generator=self._generator)


class SystemRandomness:
    """From the operating system's cryptographic generator, guarded as Opacus' secure mode is and can be without it.

    Opacus' own needs a package that is not kept up any more; torch's generator is a Mersenne Twister, whose state can
    be computed from what it gave.
    """

    def __init__(self) -> None:
        self._noise = SystemNoise()

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """Each unit by 52 random bits of its own."""
        import torch

        return torch.from_numpy(self._noise.uniform((units,)) < rate)

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """A sum of four draws in double precision, rounded with the gradient to a grid that depends on neither."""
        import torch

        values = gradient.double().numpy() + self._noise.private_normal(scale, tuple(gradient.shape))
        return torch.from_numpy(on_grid(values, scale))

    def order(self, size: int) -> torch.Tensor:
        """By random keys."""
        import torch

        return torch.from_numpy(self._noise.uniform((size,)).argsort())


class Noiseless:
    """Everybody, and no noise: for training that guarantees nothing, and says so."""

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        """All of them."""
        import torch

        del rate
        return torch.ones(units, dtype=torch.bool)

    def noisy(self, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """As it is."""
        del scale
        return gradient

    def order(self, size: int) -> torch.Tensor:
        """As they come."""
        import torch

        return torch.arange(size)
