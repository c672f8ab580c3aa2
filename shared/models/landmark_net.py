"""A network that finds hundreds of points of a head, and how far it may be wrong about each, and its loss.

Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022: a network gives a place and a standard deviation
for every landmark, and learns both by a Gaussian's negative log likelihood. It was trained on drawn people alone
(`deploy/synth/build_landmarks.py`), so the file may be given to anybody.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

FILE = "landmarks.safetensors"
SIDE = 112
"""Height and width of the aligned face that is read, in pixels."""
PIXELS_PER_DECIMETRE = 48.0
EYES = (55.5, 42.0)
"""Where the middle of the eyes is in an aligned face, in pixels (right, down)."""
MODES = 96
"""Directions in which the places of all points vary together."""
SMALLEST, LARGEST = -6.0, 0.0
"""Bounds of the logarithm of a standard deviation in decimetres: 0.25 mm to 1 dm."""
_WIDTHS = (24, 48, 96, 128)
_HIDDEN = 192
_DIVISOR = 16  # SIDE pixels become 7


class LandmarkNet(nn.Module):
    """[N, 1, 112, 112] -> [N, points, 3]: places from between the eyes in decimetres (right, down), and log sigma."""

    def __init__(self, points: int) -> None:
        super().__init__()
        first, *rest = _WIDTHS
        layers: list[nn.Module] = [*_convolution(1, first, side=5, stride=2)]
        for inside, outside in zip(_WIDTHS[:-1], rest, strict=True):
            layers += [*_convolution(inside, outside, stride=2), _Residual(outside)]
        self.body = nn.Sequential(*layers, nn.Conv2d(rest[-1], 64, 1), nn.ReLU(), nn.Flatten())
        self.hidden = nn.Linear(64 * (SIDE // _DIVISOR) ** 2, _HIDDEN)
        self.modes = nn.Linear(_HIDDEN, MODES)
        self.places = nn.Linear(MODES, 2 * points)
        self.spread = nn.Linear(_HIDDEN, points)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Places and log sigmas."""
        found = self.body(pictures)
        with torch.autocast(found.device.type, enabled=False):  # a place of 16 bits would be too coarse
            hidden = torch.relu(self.hidden(found.float()))
            places = self.places(self.modes(hidden)).view(len(found), -1, 2)
            return torch.cat([places, self.spread(hidden).clamp(SMALLEST, LARGEST)[:, :, None]], dim=2)

    @torch.no_grad()
    def start(self, mean: torch.Tensor, modes: torch.Tensor) -> None:
        """Begin with the mean [points, 2] and the principal modes [MODES, points, 2] of the training data."""
        self.places.bias.copy_(mean.reshape(-1))
        self.places.weight.copy_(modes.reshape(MODES, -1).T)
        self.spread.bias.fill_(-2.5)
        self.spread.weight.mul_(0.1)


def negative_log_likelihood(places: torch.Tensor, log_sigma: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """[N, points] of a circular Gaussian in the plane, without its constant: 2 log sigma + e^2 / (2 sigma^2).

    Args:
        places: [N, points, 2].
        log_sigma: [N, points].
        truth: [N, points, 2].
    """
    squares = (places - truth).square().sum(2)
    return 2 * log_sigma + squares / 2 * torch.exp(-2 * log_sigma)


class _Residual(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = nn.Sequential(*_convolution(width, width), *_convolution(width, width)[:2])

    def forward(self, values: torch.Tensor) -> Any:
        return torch.relu(values + self.both(values))


def _convolution(inside: int, outside: int, *, side: int = 3, stride: int = 1) -> list[nn.Module]:
    own = nn.Conv2d(inside, outside, side, stride=stride, padding=side // 2, bias=False)
    return [own, nn.BatchNorm2d(outside), nn.ReLU()]
