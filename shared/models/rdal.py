"""RDAL: a code of mel bands that is trained for one thing and against an adversary who is replaced again and again.

Luong et al., "Representation Learning for Audio Privacy Preservation using Source Separation and Robust Adversarial
Learning", arXiv 2308.04960, 2023: a fixed mask, then an encoder; a linear classifier keeps what is wanted, and an
adversary behind gradient reversal reads what is to be hidden. Group normalization stands in place of batch
normalization: a row's code must not depend on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.models.adversaries import Adversary, AdversaryFigures
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.models.replacement_autoencoder import Scale, placed
from moretta.shared.models.spectral_mask import MELS, MaskNet, clip_mels
from moretta.shared.study.public_arrays import LARGEST, Rule, Rules, named, scale_rules

CODE = 64
_CHANNELS = (16, 32, 64, 128)
_GROUPS, _DROPOUT = 4, 0.25
_ADVERSARY = (48, 32, 16)
PREFIX = "voice/rdal/"
MASK, ENCODER = PREFIX + "mask.", PREFIX + "encoder."
MEL_CENTER, MEL_DEVIATION, CODE_CENTER, CODE_DEVIATION, FIGURES = (
    PREFIX + name for name in ("mel-center", "mel-deviation", "code-center", "code-deviation", "figures")
)


class CodeNet(nn.Module):
    """Mel bands [n, 64, t] to codes [n, 64], of any t from 1 on. The first layer takes every other step."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for of, to in zip((1, *_CHANNELS[:-1]), _CHANNELS, strict=True):
            layers += [
                nn.Conv2d(of, to, 3, stride=(1, 2 if of == 1 else 1), padding=1),
                nn.GroupNorm(_GROUPS, to),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Dropout(_DROPOUT),
            ]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(_CHANNELS[-1], CODE)

    def forward(self, mels: Tensor) -> Tensor:
        """Codes."""
        found = self.layers(mels[:, None].contiguous(memory_format=torch.channels_last))
        code: Tensor = self.last(found.amax(dim=(2, 3)))
        return code


def verifier(classes: int) -> nn.Sequential:
    """A reader of codes: the adversary in the loop, and every fresh one that replaces it.

    It sees each value relative to the others of a batch: an encoder could otherwise hide by making codes small.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(CODE, affine=False)]
    for of, to in zip((CODE, *_ADVERSARY[:-1]), _ADVERSARY, strict=True):
        layers += [nn.Linear(of, to), nn.LeakyReLU(), nn.Dropout(_DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(_ADVERSARY[-1], classes))


class RdalNet(nn.Module):
    """Mel bands [n, 64, t] to the logits of what is kept and of what is hidden."""

    def __init__(self, kept: int, hidden: int) -> None:
        super().__init__()
        self.encoder, self.classifier = CodeNet(), nn.Linear(CODE, kept)
        self.adversary = Adversary(verifier(hidden))
        self.classes = kept, hidden
        self.strength = 0.0

    def forward(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs; the adversary stands behind the reversal."""
        code = self.encoder(mels)
        return self.classifier(code), self.adversary(code, self.strength)


class RdalFigures(NamedTuple):
    """Figures of the trained networks, measured on public people."""

    hidden: AdversaryFigures
    """Readers of the hidden attribute: in the loop on unseen clips of training people, fresh ones on held-out ones."""
    kept: float
    """Balanced accuracy on held-out people of the classifier in the loop, of emotion."""
    verifier_loss: float
    """Loss of the fresh verifier at that epoch, in units of a guess: 1 where it finds nothing, 0 without a verifier."""
    epoch: int
    """Epoch after which the weights were taken."""

    @classmethod
    def size(cls) -> int:
        """Length of the array."""
        return 1 + len(AdversaryFigures.names()) + len(cls._fields[1:])

    def to_array(self) -> Float32:
        """The figures as one array, as the coordinator sends it."""
        return np.concatenate([[self.hidden.classes], self.hidden.to_array(), self[1:]], dtype=np.float32)

    @classmethod
    def from_array(cls, array: Array) -> Self:
        """The inverse of `to_array`."""
        size = len(AdversaryFigures.names())
        hidden = AdversaryFigures.from_array(array[1 : 1 + size], classes=max(2, int(array[0])))
        kept, loss, epoch = array[1 + size :].tolist()
        return cls(hidden, kept, loss, int(epoch))


@dataclass(frozen=True, eq=False)
class Rdal:
    """A trained mask and encoder as plain arrays."""

    arrays: Mapping[str, Array]

    @classmethod
    def rules(cls, *, has_mask: bool) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        return {
            **(array_rules(MaskNet, MASK) if has_mask else {}),
            **array_rules(CodeNet, ENCODER),
            **scale_rules(MEL_CENTER, MEL_DEVIATION, MELS),
            **scale_rules(CODE_CENTER, CODE_DEVIATION, CODE),
            FIGURES: Rule((RdalFigures.size(),), LARGEST),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, has_mask: bool) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules(has_mask=has_mask)))

    @classmethod
    def of(cls, encoder: CodeNet, mask: MaskNet | None, mels: Scale, codes: Scale) -> Self:
        """Without figures: networks, and the scales of what the encoder takes and of what it gives."""
        scales = dict(zip((MEL_CENTER, MEL_DEVIATION, CODE_CENTER, CODE_DEVIATION), (*mels, *codes), strict=True))
        weights = {**arrays_of(encoder, ENCODER), **({} if mask is None else arrays_of(mask, MASK))}
        return cls({**scales, **weights, FIGURES: np.zeros(RdalFigures.size(), np.float32)})

    @property
    def figures(self) -> RdalFigures:
        """Figures on public people."""
        return RdalFigures.from_array(self.arrays[FIGURES])

    @cached_property
    def mask(self) -> MaskNet | None:
        """The network of the mask, if there is one."""
        return network_of(MaskNet, self.arrays, MASK).eval() if MASK + "down.0.0.weight" in self.arrays else None

    @cached_property
    def encoder(self) -> CodeNet:
        """The network of the code."""
        return network_of(CodeNet, self.arrays, ENCODER).eval()

    @torch.no_grad()
    def codes(self, mels: Array) -> Float32:
        """Decibels of mel bands [n, 64, t] to codes [n, 64]: in public standard deviations, within +- 5."""
        places = band_places(mels, (self.arrays[MEL_CENTER], self.arrays[MEL_DEVIATION]))
        found = torch.cat([self.encoder(part) for part in torch.split(places, 64)]).numpy()
        scale = self.arrays[CODE_CENTER], self.arrays[CODE_DEVIATION]
        return placed(found, scale).astype(np.float32)

    def __call__(self, samples: Array) -> Float32:
        """One clip to its code [64], finite whatever the weights are. Errors: see `check_samples`."""
        code: Float32 = self.codes(clip_mels(samples, self.mask)[None])[0]
        return code


def band_places(mels: Array, scale: Scale) -> Tensor:
    """Decibels [n, 64, t] in public standard deviations of each band."""
    places = placed(np.swapaxes(mels, 1, 2), scale)
    return torch.from_numpy(np.ascontiguousarray(np.swapaxes(places, 1, 2), np.float32))
