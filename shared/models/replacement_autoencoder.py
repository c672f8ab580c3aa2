"""A replacement autoencoder with gradient reversal, on measurements of how something was said.

Feng and Narayanan, ACII 2021 (doi 10.1109/ACII52823.2021.9597433), after the replacement autoencoder of Malekzadeh et
al., IoTDI 2018. Clips of a sensitive emotion are reconstructed as clips of another one; a classifier of sex stands
behind the narrowest layer, and the gradient that it gives to the encoder is reversed. Everything is trained on public
speech; a third of its people are held out, and the figures are of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import MIN_SPREAD
from moretta.shared.models.adversaries import (
    Adversary,
    AdversaryFigures,
    cross_entropies,
    dense,
)
from moretta.shared.models.network_arrays import array_rules, array_shapes, arrays_of, network_of
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, Rule, Rules, named, scale_rules

Scale = tuple[Array, Array]
"""Mean and deviations [d] of public values."""

WIDTH, BOTTLENECK = len(MEASUREMENTS), 32
_BETWEEN = 64
SEXES = ("female", "male")
LIMIT = 5.0
"""Largest distance of measurements and released values from the public mean, in public standard deviations."""
MAX_ROUNDS = 1_000
PREFIX = "voice/replacement/"
CENTER, DEVIATION, FIGURES, ROUNDS = (PREFIX + name for name in ("center", "deviation", "figures", "rounds"))
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_LAYERS = ("encoder.0", "encoder.2", "decoder.0", "decoder.2")
_NARROWEST = "encoder.2"


def dense_autoencoder(
    width: int, between: int, bottleneck: int, *, is_bounded: bool = False
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of SELU layers (Klambauer et al., NeurIPS 2017): width - between - bottleneck, and back.

    With `is_bounded` the bottleneck ends in a tanh: an encoder could otherwise beat its adversaries by large values.
    """
    narrow = nn.Tanh() if is_bounded else nn.SELU()
    encoder = nn.Sequential(nn.Linear(width, between), nn.SELU(), nn.Linear(between, bottleneck), narrow)
    return encoder, nn.Sequential(nn.Linear(bottleneck, between), nn.SELU(), nn.Linear(between, width))


def reconstructed(arrays: Mapping[str, Array], places: Float64, *, prefix: str, is_bounded: bool = False) -> Float64:
    """Output of a `dense_autoencoder` with these arrays for places [n, width], computed without torch."""
    found = places
    for layer in _LAYERS:
        weight, bias = (arrays[f"{prefix}{layer}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        found = found @ weight.T + bias
        if is_bounded and layer == _NARROWEST:
            found = np.tanh(found)
        elif layer != _LAYERS[-1]:
            found = _SELU_SCALE * np.where(found > 0, found, _SELU_ALPHA * np.expm1(np.minimum(found, 0.0)))
    return found


class ReplacementNet(nn.Module):
    """Places [n, 95] to reconstructed places and the logits of both sexes, [n, 97].

    Layers and activations are those of the replacement autoencoder, with fewer of them: 12 thousand weights.
    """

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder = dense_autoencoder(WIDTH, _BETWEEN, BOTTLENECK)
        self.adversary = Adversary(dense(BOTTLENECK, len(SEXES)))
        self.strength = strength

    def forward(self, places: Tensor) -> Tensor:
        """Both outputs side by side, so that one loss of each row is one gradient of each row."""
        code = self.encoder(places)
        return torch.cat([self.decoder(code), self.adversary(code, self.strength)], dim=1)


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the network's arrays, by name."""
    return array_shapes(ReplacementNet)


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss for each row, [n]: squared error of the reconstruction, and cross-entropy of sex.

    Args:
        outputs: [n, 97], as the network gives them.
        targets: [n, 97]: what is to be reconstructed, the sex (0 or 1), and the weight of its loss.
    """
    made, logits = outputs[:, :WIDTH], outputs[:, WIDTH:]
    wanted, sex, weight = targets[:, :WIDTH], targets[:, WIDTH].long(), targets[:, WIDTH + 1]
    return (made - wanted).square().mean(dim=1) + weight * cross_entropies(logits, sex)


def scale_of(values: Float64) -> Scale:
    """Mean and deviation of public values [n, d]: no deviation is less than `MIN_SPREAD`."""
    spread = np.maximum(values.std(axis=0), MIN_SPREAD)
    return values.mean(axis=0).astype(np.float32), spread.astype(np.float32)


def placed(values: Array, scale: Scale) -> Float64:
    """Values [n, d] in public standard deviations from the public mean, within +- `LIMIT`: each by itself."""
    center, deviation = scale
    return bounded((np.asarray(values, np.float64) - center) / deviation, LIMIT)


@dataclass(frozen=True, slots=True, eq=False)
class ReplacementAutoencoder:
    """A trained autoencoder as plain arrays; sites apply it without torch."""

    arrays: Mapping[str, Array]

    @classmethod
    def rules(cls) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        return {
            **scale_rules(CENTER, DEVIATION, WIDTH),
            **array_rules(ReplacementNet, PREFIX),
            FIGURES: Rule((len(AdversaryFigures.names()) + 1,), LARGEST),
            ROUNDS: Rule((1,), MAX_ROUNDS, 0, dtype="int64"),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules()))

    @classmethod
    def of(cls, network: nn.Module, scale: Scale, figures: Float32, rounds: int = 0) -> Self:
        """The arrays of a trained network: weights, scale, and figures of held-out people."""
        weights = arrays_of(network, PREFIX)
        return cls(
            {CENTER: scale[0], DEVIATION: scale[1], **weights, FIGURES: figures, ROUNDS: np.array([rounds], np.int64)}
        )

    @property
    def figures(self) -> AdversaryFigures:
        """Figures on held-out public people."""
        return AdversaryFigures.from_array(self.arrays[FIGURES][:-1], classes=len(SEXES))

    @property
    def scale(self) -> Scale:
        """Mean and deviations of public speech, [95] each."""
        return self.arrays[CENTER], self.arrays[DEVIATION]

    @property
    def explained(self) -> float:
        """R2: the share of the variance of held-out clips that are not sensitive that is reconstructed."""
        return float(self.arrays[FIGURES][-1])

    @property
    def rounds(self) -> int:
        """Rounds of training at the sites; 0 means that it was trained on public speech alone."""
        return int(self.arrays[ROUNDS][0])

    def network(self, strength: float = 0.0) -> ReplacementNet:
        """The arrays as a network."""
        return network_of(partial(ReplacementNet, strength), self.arrays, PREFIX)

    def places(self, values: Array) -> Float64:
        """Measurements [n, 95] as the network takes them."""
        return placed(values, self.scale)

    def __call__(self, places: Float64) -> Float64:
        """Places [n, 95] to the places that are released, finite and within +- `LIMIT` whatever the weights are."""
        return bounded(reconstructed(self.arrays, places, prefix=PREFIX), LIMIT)
