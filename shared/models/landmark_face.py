"""A face from landmarks: points of anybody become those of a public person, and a picture is drawn of them alone.

Sun, Li, Qi and Lyu, "LandmarkGAN: Synthesizing Faces from Landmarks", Pattern Recognition Letters 161, 2022: an encoder
for everybody and a decoder for each target; then a network from coordinates to pictures. Between the two, points are
held to the main directions in which the public person's own points vary, which the paper does not do. So no more than a
few bounded numbers a frame pass, whatever networks a coordinator sends, and noise can be added to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float32, Float64, UInt8
from moretta.shared.core.workers import one_thread
from moretta.shared.features.speaker_scale import LEVELS, WIDEST, PublicMeasures
from moretta.shared.models.drawn_landmarks import COUNT
from moretta.shared.models.head.portrait import PublicPerson
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.study.public_arrays import Rule, Rules, named

SIDE = 64
"""Side of the pictures, in pixels."""
MODES = 24
"""Main directions of the public person's points."""
_VALUES = 2 * COUNT
_LEAK = 0.1
_WIDTH = 256
_CHANNELS = (96, 64, 48, 32)
"""Channels of maps of 4, 8, 16 and 32 pixels a side."""
_BATCH = 8
_SPREAD = 0.1
"""About the deviation of a person's normalized points; layers see points from the public person's mean, by it."""
_LARGEST_POINT = 20.0
PREFIX = "face/landmark/"
ENCODER, DECODER, DRAWER = (f"{PREFIX}{name}." for name in ("encoder", "decoder", "drawer"))
MEAN, MODE, FIGURES = (f"{PREFIX}{name}" for name in ("mean", "modes", "figures"))
_MEASURES = f"{PREFIX}public-"


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkTask:
    """How both networks are trained; see the options of `landmark-face`."""

    person: PublicPerson = "cedar"
    heads: int = 96
    paired: bool = True
    converter_steps: int = 1_000
    pictures: int = 1_500
    steps: int = 1_500


class PointLayers(nn.Sequential):
    """Points [n, 196], from a mean and scaled, to such points: the encoder as well as the decoder of a person."""

    def __init__(self, width: int = _WIDTH) -> None:
        sizes = (_VALUES, width, width, width, width, _VALUES)
        layers: list[nn.Module] = []
        for of, to in itertools.pairwise(sizes):
            layers += [nn.Linear(of, to), nn.LeakyReLU(_LEAK)]
        super().__init__(*layers[:-1])


class Drawer(nn.Module):
    """Points [n, 196] of the public person to pictures [n, 3, 64, 64] in [0, 1]; nothing else goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(_VALUES, _WIDTH)
        self.second = nn.Linear(_WIDTH, 16 * _CHANNELS[0])
        self.blocks = nn.ModuleList(nn.Conv2d(of, 4 * to, 3, padding=1) for of, to in itertools.pairwise(_CHANNELS))
        self.fine = nn.Conv2d(_CHANNELS[-1], _CHANNELS[-1], 3, padding=1)
        self.last = nn.Conv2d(_CHANNELS[-1], 12, 5, padding=2)

    def forward(self, points: Tensor) -> Tensor:
        """See the class."""
        maps = functional.leaky_relu(self.second(functional.leaky_relu(self.first(points), _LEAK)), _LEAK)
        maps = maps.view(-1, _CHANNELS[0], 4, 4)
        for block in self.blocks:
            maps = functional.leaky_relu(functional.pixel_shuffle(block(maps), 2), _LEAK)
        return torch.sigmoid(functional.pixel_shuffle(self.last(functional.leaky_relu(self.fine(maps), _LEAK)), 2))


class LandmarkFigures(NamedTuple):
    """Figures of the networks, measured on drawn people whom nothing was trained on. Errors are in eye distances."""

    before: float
    """Distance of a stranger's measured points from those of the public person who does the same."""
    after: float
    """This distance for converted points."""
    picture: float
    """Mean absolute difference of pictures of the public person's own points from the truth, of values in 0 to 1."""

    def stated(self) -> dict[str, float]:
        """Rounded figures by name, for the statement of a release."""
        return {name: round(value, 3) for name, value in self._asdict().items()}


@dataclass(frozen=True, eq=False)
class LandmarkFace:
    """Both trained networks and what the public person's points are like, as plain arrays."""

    arrays: Mapping[str, Array]

    @classmethod
    def rules(cls) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        networks = [array_rules(PointLayers, name) for name in (ENCODER, DECODER)]
        return {
            **{name: rule for rules in (*networks, array_rules(Drawer, DRAWER)) for name, rule in rules.items()},
            MEAN: Rule((_VALUES,), _LARGEST_POINT),
            MODE: Rule((MODES, _VALUES), _LARGEST_POINT),
            f"{_MEASURES}quantiles": Rule((LEVELS, MODES), WIDEST),
            f"{_MEASURES}middle": Rule((MODES,), WIDEST),
            FIGURES: Rule((len(LandmarkFigures._fields),), 1e6),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules()))

    @classmethod
    def of(cls, encoder: PointLayers, decoder: PointLayers, drawer: Drawer, shape: PointModes) -> Self:
        """The arrays of trained networks, without figures and public measures: see `finished`."""
        networks = {**arrays_of(encoder, ENCODER), **arrays_of(decoder, DECODER), **arrays_of(drawer, DRAWER)}
        return cls({**networks, MEAN: shape.mean.astype(np.float32), MODE: shape.modes.astype(np.float32)})

    def with_converter(self, encoder: PointLayers, decoder: PointLayers) -> Self:
        """A copy with another converter; its figures and public measures must be made anew."""
        return type(self)({**self.arrays, **arrays_of(encoder, ENCODER), **arrays_of(decoder, DECODER)})

    def finished(self, measures: PublicMeasures, figures: LandmarkFigures) -> Self:
        """With the distribution of strangers' coordinates, and what was measured."""
        found = {FIGURES: np.array(figures, np.float32), **measures.to_arrays(_MEASURES)}
        return type(self)({**self.arrays, **found})

    @property
    def figures(self) -> LandmarkFigures:
        """Figures on drawn people."""
        return LandmarkFigures(*self.arrays[FIGURES].tolist())

    @cached_property
    def public(self) -> PublicMeasures:
        """How strangers' coordinates are distributed."""
        return PublicMeasures.from_arrays(self.arrays, _MEASURES)

    @cached_property
    def shape(self) -> PointModes:
        """Where the public person's points are, and how they vary."""
        return PointModes(*(np.asarray(self.arrays[name], np.float64) for name in (MEAN, MODE)))

    @cached_property
    def _networks(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        encoder, decoder = (network_of(PointLayers, self.arrays, name).eval() for name in (ENCODER, DECODER))
        return encoder, decoder, network_of(Drawer, self.arrays, DRAWER).eval()

    def converted(self, points: Float32) -> Float32:
        """Normalized points [n, 98, 2] of anybody -> those of the public person, of any value where weights are odd."""
        encoder, decoder, _ = self._networks
        with one_thread(), torch.no_grad():
            made: Tensor = decoder(encoder(torch.from_numpy(self.shape.from_mean(points))))
            return self.shape.restored(made.numpy())

    def coordinates(self, points: Float32) -> Float64:
        """Normalized points [n, 98, 2] of anybody -> the public person's coordinates [n, 24], finite, within +-3."""
        return self.shape.coordinates(self.converted(points))

    def drawn(self, coordinates: Array) -> UInt8:
        """The public person at coordinates [n, 24], uint8 [n, 64, 64, 3]. Grey where the network gives no number."""
        places = torch.from_numpy(self.shape.points(coordinates).reshape(-1, _VALUES))
        parts = []
        with one_thread(), torch.inference_mode():
            for part in torch.split(places, _BATCH):
                made = torch.nan_to_num(self._networks[2](part), nan=0.5)
                parts.append((made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
        return np.ascontiguousarray(np.concatenate(parts))


@dataclass(frozen=True, slots=True, eq=False)
class PointModes:
    """The mean [196] of a person's normalized points, and main directions [24, 196], each one deviation long."""

    mean: Float64
    modes: Float64

    @classmethod
    def of(cls, points: Float32) -> Self:
        """Modes of normalized points [n, 98, 2] of the public person."""
        rows = np.asarray(points, np.float64).reshape(-1, _VALUES)
        mean = rows.mean(axis=0)
        _, lengths, directions = np.linalg.svd(rows - mean, full_matrices=False)
        return cls(mean, lengths[:MODES, None] / np.sqrt(len(rows)) * directions[:MODES])

    def from_mean(self, points: Float32) -> Float32:
        """Normalized points [n, 98, 2] as layers see them, [n, 196]."""
        return np.asarray((points.reshape(-1, _VALUES) - self.mean) / _SPREAD, np.float32)

    def restored(self, rows: Float32) -> Float32:
        """The inverse of `from_mean`."""
        return np.asarray((rows * _SPREAD + self.mean).reshape(-1, COUNT, 2), np.float32)

    def coordinates(self, points: Float32) -> Float64:
        """[n, 98, 2] -> [n, 24], in deviations, cut at +-3; 0 where there is no number."""
        rows = np.nan_to_num(np.asarray(points, np.float64).reshape(-1, _VALUES), posinf=0, neginf=0) - self.mean
        powers = np.maximum(np.square(self.modes).sum(axis=1), 1e-12)
        found = np.nan_to_num(rows @ self.modes.T / powers)
        return np.asarray(np.clip(found, -WIDEST, WIDEST))

    def points(self, coordinates: Array) -> Float32:
        """[n, 24] -> points [n, 98, 2]."""
        rows = self.mean + np.asarray(coordinates, np.float64) @ self.modes
        return np.asarray(rows.reshape(-1, COUNT, 2), np.float32)
