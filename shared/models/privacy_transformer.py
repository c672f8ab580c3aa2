"""The embedding of an utterance, to that of the same utterance by another voice: a Transformer over a set of two.

Tran and Soleymani, "Privacy-preserving representation learning for speech understanding" (2023, arXiv 2310.17194): an
encoder that does not change any more embeds an utterance; its embedding and that of a target speaker pass one embedding
layer each, a Transformer without positions, and one dense layer, which is regressed to what the target's voice would
have given. Everything is trained on public and synthetic speech.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.models.replacement_autoencoder import LIMIT, Scale, placed, scale_of
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, Rule, Rules, named, scale_rules

WIDTH, HEADS, LAYERS, INNER = 128, 4, 2, 256
TARGETS = 24
"""Synthetic voices that utterances are given."""
PREFIX = "voice/transformer/"
CENTER, DEVIATION, VOICES, FIGURES = (PREFIX + name for name in ("center", "deviation", "voices", "figures"))
LEAST_VARIATION = 0.3
"""Smallest variation of predictions for one target, as a share of that of true clones: a constant is of no use."""


class TransformerNet(nn.Module):
    """Places of utterances and of target voices, [n, d] each, to places of the utterances in these voices, [n, d].

    Both are a set: neither has a position, and only its own embedding layer says which it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.utterance, self.voice = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, width)

    def forward(self, utterances: Tensor, voices: Tensor) -> Tensor:
        """See the class."""
        tokens = torch.stack([self.utterance(utterances), self.voice(voices)], dim=1)  # [n, 2, 128]
        for layer in self.layers:
            tokens = layer(tokens)
        made: Tensor = self.last(self.norm(tokens.mean(dim=1)))
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerFigures:
    """Figures of the network, measured on other synthetic voices than those of training, with other utterances."""

    cosine: float
    """Cosine of a prediction with the true clone, in public standard deviations; source and target are unseen."""
    source_cosine: float
    """Cosine of the unchanged source with the true clone."""
    own_cosine: float
    """Cosine of a prediction for the source's own voice with the source."""
    variation: float
    """Variance over utterances of predictions for one target, as a share of that of its true clones."""
    speaker: float
    """Balanced accuracy of the stronger of two fresh readers of who the source was, in what is released."""
    speaker_originals: float
    """Balanced accuracy of the stronger of these readers in originals."""
    speaker_chance: float
    """One over the number of voices."""
    emotion: float
    """Balanced accuracy of a fresh reader of the emotion in what is released; of voices it was not trained on."""
    emotion_originals: float
    """Balanced accuracy of a fresh reader of the emotion in originals."""

    def faults(self) -> tuple[str, ...]:
        """Reasons not to believe that anything was hidden, or that anything is left; empty if there are none."""
        if not np.isfinite(self.to_array()).all():
            return ("figures that are not finite: the training diverged",)
        found = {
            f"predictions keep {self.variation:.2f} of the variance of true clones: they say nothing of utterances": (
                self.variation < LEAST_VARIATION
            ),
            f"predictions are as like the true clone ({self.cosine:.2f}) as the source is ({self.source_cosine:.2f}): "
            "no voice was changed": self.cosine <= self.source_cosine,
        }
        return tuple(what for what, is_found in found.items() if is_found)

    def to_array(self) -> Float32:
        """The figures as one array, as the coordinator sends it."""
        return np.array(list(asdict(self).values()), np.float32)

    @classmethod
    def from_array(cls, array: Array) -> Self:
        """The inverse of `to_array`."""
        return cls(**dict(zip((field.name for field in fields(cls)), map(float, array), strict=True)))

    def stated(self) -> dict[str, Any]:
        """Rounded figures by name, for the statement of a release."""
        return {name: round(value, 3) for name, value in asdict(self).items()} | {"faults": list(self.faults())}


@dataclass(frozen=True, eq=False)
class PrivacyTransformer:
    """A trained Transformer as plain arrays, with the voices that utterances are given."""

    arrays: Mapping[str, Array]

    @classmethod
    def rules(cls, width: int) -> Rules:
        """Rules for the arrays, by name: shape and bounds, for embeddings of `width` values."""
        return {
            **scale_rules(CENTER, DEVIATION, width),
            VOICES: Rule((TARGETS, width), LIMIT),
            FIGURES: Rule((len(fields(TransformerFigures)),), LARGEST),
            **array_rules(_nets(width), PREFIX),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, width: int) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules(width)))

    @classmethod
    def of(cls, network: TransformerNet, scale: Scale, voices: Float64, figures: TransformerFigures) -> Self:
        """The arrays of a trained network. The scale is that of the clones; voices are places [24, d]."""
        return cls(
            {
                CENTER: scale[0],
                DEVIATION: scale[1],
                VOICES: np.asarray(voices, np.float32),
                FIGURES: figures.to_array(),
                **arrays_of(network, PREFIX),
            }
        )

    def on_scale_of(self, embeddings: Array) -> Self:
        """A copy for clips like those of public embeddings [n, d]: recordings lie elsewhere than synthetic voices."""
        center, deviation = scale_of(np.asarray(embeddings, np.float64))
        return type(self)({**self.arrays, CENTER: center, DEVIATION: deviation})

    @property
    def figures(self) -> TransformerFigures:
        """Figures on synthetic voices."""
        return TransformerFigures.from_array(self.arrays[FIGURES])

    @cached_property
    def _network(self) -> TransformerNet:
        return network_of(_nets(len(self.arrays[CENTER])), self.arrays, PREFIX).eval()

    def __call__(self, embeddings: Array, targets: Int64) -> Float32:
        """Embeddings [n, d], and the number of a target voice for each, to places [n, d] in public deviations.

        They are finite and within +- `LIMIT`, whatever the weights are.
        """
        places = placed(embeddings, (self.arrays[CENTER], self.arrays[DEVIATION]))
        return predicted(self._network, places, self.arrays[VOICES][targets])


@torch.inference_mode()
def predicted(network: TransformerNet, places: Array, voices: Array) -> Float32:
    """Places [n, d] of utterances in other voices [n, d]."""
    found = network(torch.tensor(places, dtype=torch.float32), torch.tensor(voices, dtype=torch.float32))
    return np.asarray(bounded(found.numpy(), LIMIT), np.float32)


_NETS: dict[int, partial[TransformerNet]] = {}


def _nets(width: int) -> partial[TransformerNet]:
    """Maker of networks of this width. Equal widths give the same object, by which rules are looked up."""
    return _NETS.setdefault(width, partial(TransformerNet, width))
