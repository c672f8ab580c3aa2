"""A small HuBERT: an encoder of speech that was trained, without labels, to name the units of frames it does not see.

Hsu et al., "HuBERT", IEEE/ACM TASLP 2021, first iteration (section II), at a hundredth of its size: two convolutions
halve 40 log mel bands to 50 frames a second, a convolution says where a frame stands, and three Transformer layers
follow. An utterance is embedded as the mean over time of one layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.features.mfcc import MELS, OUTPUT_RMS, Audio, Frames, check_samples, mfcc_batch
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.pretrained.encoder import speech_only
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, Rules, named, scale_rules

WIDTH, HEADS, LAYERS, INNER = 128, 4, 3, 512
UNITS = 64
"""Clusters of MFCC."""
EMBEDDED_LAYER = 2
"""Transformer layer whose mean is the embedding, counted from 1."""
MASK_SHARE, MASK_FRAMES = 0.08, 10
"""Share of frames that begin a masked span, and the length of a span: 0.2 s."""
FRAME_LIMIT = 5.0
"""Largest value of a frame, in public standard deviations."""
PREFIX = "voice/hubert/"
_MEAN, _STD = PREFIX + "mean", PREFIX + "std"
_NAMED, _TEMPERATURE = 64, 0.1
_PLACED_FRAMES, _PLACED_GROUPS = 31, 8
_TRAINING_ONLY = ("masked", "head.", "units")


class MiniHubertNet(nn.Module):
    """Standardised log mel frames [n, t, 40] to states of [n, t / 2, 128], and to logits of units."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, WIDTH, 5, padding=2)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(WIDTH)
        self.masked = nn.Parameter(torch.zeros(WIDTH).uniform_())
        self.place = nn.Conv1d(WIDTH, WIDTH, _PLACED_FRAMES, padding=_PLACED_FRAMES // 2, groups=_PLACED_GROUPS)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.last = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, _NAMED)
        self.units = nn.Parameter(torch.randn(UNITS, _NAMED))

    def states(self, frames: Tensor, mask: Tensor | None = None, *, layers: int = LAYERS) -> Tensor:
        """Output of a Transformer layer, counted from 1: [n, t / 2, 128], frames of the mask [n, t / 2] hidden."""
        found = functional.gelu(self.second(functional.gelu(self.first(frames.mT))))
        found = self.norm(found.mT)
        if mask is not None:
            found = torch.where(mask[..., None], self.masked, found)
        found = found + functional.gelu(self.place(found.mT)).mT
        for layer in self.layers[:layers]:
            found = layer(found)
        return found

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Logits of the units [n, t / 2, 64]: cosines with learned vectors of theirs, over a temperature of 0.1."""
        states = functional.normalize(self.head(self.last(self.states(frames, mask))), dim=-1)
        return states @ functional.normalize(self.units, dim=-1).T / _TEMPERATURE


def heard_frames(clips: Sequence[Array]) -> list[Frames]:
    """Log mel energies [t, 40] of each clip, by an orthonormal cosine transform: silent ends are cut, levels are equal.
    Raises ClipError: see `check_samples`."""
    return mfcc_batch([_levelled(speech_only(check_samples(clip))) for clip in clips], MELS)


def _levelled(samples: Audio) -> Audio:
    """Sound at one level, whatever the distance of the microphone; HuBERT's first layer normalizes, too."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return np.asarray(samples * (OUTPUT_RMS / max(level, 1e-6)), np.float32)


@dataclass(frozen=True, eq=False)
class MiniHubert:
    """A trained encoder as plain arrays, without what only training needs."""

    arrays: Mapping[str, Array]

    width = WIDTH

    @classmethod
    def rules(cls) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        weights = {name: rule for name, rule in array_rules(MiniHubertNet, PREFIX).items() if not _only_trained(name)}
        return {**scale_rules(_MEAN, _STD, MELS), **weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules()))

    @classmethod
    def of(cls, network: MiniHubertNet, mean: Array, std: Array) -> Self:
        """The arrays of a trained network."""
        weights = {name: array for name, array in arrays_of(network, PREFIX).items() if not _only_trained(name)}
        return cls({_MEAN: np.asarray(mean, np.float32), _STD: np.asarray(std, np.float32), **weights})

    @cached_property
    def _network(self) -> MiniHubertNet:
        return network_of(MiniHubertNet, self.arrays, PREFIX).eval()

    def ready(self) -> None:
        """All that it needs are its arrays."""

    @torch.inference_mode()
    def embed(self, clips: Sequence[Array]) -> Float32:
        """float32 [clips, 128], finite whatever the weights are. Errors: see `heard_frames`."""
        rows = []
        for frames in heard_frames(clips):
            inside = torch.tensor(standardised(frames, self.arrays[_MEAN], self.arrays[_STD]))
            states = self._network.states(inside[None], layers=EMBEDDED_LAYER)[0]
            rows.append(bounded(states.mean(dim=0).numpy(), LARGEST))
        return np.asarray(np.stack(rows), np.float32)


def standardised(frames: Frames, mean: Array, std: Array) -> Frames:
    """Frames in public standard deviations from the public mean, within +- `FRAME_LIMIT`."""
    return np.asarray(bounded((frames - mean) / std, FRAME_LIMIT), np.float32)


def _only_trained(name: str) -> bool:
    return name.removeprefix(PREFIX).startswith(_TRAINING_ONLY)
