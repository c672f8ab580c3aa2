"""A discriminator of patches of pictures, and how a network that makes pictures is trained against it.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section 3.2:
every patch is real or made. The losses are the hinge (Lim and Ye, arXiv 1705.02894) and the distance of the inner
features (Salimans et al., NeurIPS 2016, section 3.1).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.models.optimizers import Descent

_LEAK = 0.2


class PatchDiscriminator(nn.Module):
    """Pictures [n, channels, side, side] to one value for each patch: positive for real ones. `channels`: of the
    picture, and of what it has to fit, one after the other."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(of, to, 4, stride=2, padding=1) for of, to in itertools.pairwise(sizes))
        self.last = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inner features of each layer, and the values [n, 1, side / 8, side / 8]."""
        features, maps = [], pictures
        for layer in self.layers:
            maps = functional.leaky_relu(layer(maps), _LEAK)
            features.append(maps)
        return features, self.last(maps)


class Fooled(NamedTuple):
    """Losses of whoever made pictures."""

    hinge: Tensor
    features: Tensor


class Adversary:
    """A discriminator with its optimizer. `rate`: of learning; constant, then linear to zero over the second half."""

    def __init__(self, network: PatchDiscriminator, steps: int, rate: float) -> None:
        self._network = network
        self._descent = Descent(network.parameters(), steps, rate)

    def losses(self, real: Tensor, made: Tensor) -> Fooled:
        """Losses of made pictures, beside the real ones. They do not train the discriminator."""
        for weights in self._network.parameters():
            weights.requires_grad_(False)
        wanted, _ = self._network(real)
        found, values = self._network(made)
        for weights in self._network.parameters():
            weights.requires_grad_(True)
        apart = [(one - other.detach()).abs().mean() for one, other in zip(found, wanted, strict=True)]
        return Fooled(-values.mean(), torch.stack(apart).mean())

    def learn(self, real: Tensor, made: Tensor) -> float:
        """One step of the discriminator, by the hinge; its loss."""
        _, values = self._network(torch.cat([real, made.detach()]))
        own, other = values.chunk(2)
        return self._descent(functional.relu(1 - own).mean() + functional.relu(1 + other).mean())


class UNet(nn.Module):
    """Pictures [n, channels, 64, 64] to maps [n, outputs, 64, 64] of any values, with a category where there is one.

    Four levels; each level out sees the level in of its size (Ronneberger, Fischer and Brox, MICCAI 2015). The category
    is added to the smallest maps.

    Args:
        categories: how many there are; 0 for none.
        bias: what comes out before any training, for all pictures.
    """

    def __init__(self, channels: int, outputs: int, width: int, categories: int = 0, *, bias: float = 0.0) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 4 * width, 4 * width)
        self.inner = nn.ModuleList(nn.Conv2d(of, to, 4, stride=2, padding=1) for of, to in itertools.pairwise(sizes))
        self.category = nn.Linear(categories, sizes[-1]) if categories else None
        beside, wanted = (0, 4 * width, 2 * width, width), (4 * width, 2 * width, width, width)
        before = (sizes[-1], *wanted)
        self.outer = nn.ModuleList(
            nn.Conv2d(of + more, to, 3, padding=1) for of, more, to in zip(before, beside, wanted, strict=False)
        )
        self.last = nn.Conv2d(width + channels, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor, category: Tensor | None = None) -> Tensor:
        """See the class; `category` is one-hot, [n, categories]."""
        levels, maps = [], pictures
        for layer in self.inner:
            maps = functional.leaky_relu(layer(maps), _LEAK)
            levels.append(maps)
        if self.category is not None and category is not None:
            maps = maps + self.category(category)[:, :, None, None]
        for number, layer in enumerate(self.outer):
            joined = maps if number == 0 else torch.cat([maps, levels[-1 - number]], dim=1)
            maps = functional.leaky_relu(layer(functional.interpolate(joined, scale_factor=2)), _LEAK)
        return torch.as_tensor(self.last(torch.cat([maps, pictures], dim=1)))
