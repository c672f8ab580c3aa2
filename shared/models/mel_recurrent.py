"""Small convolutional and recurrent networks on log-mel spectra: they read emotion off sound.

Two-dimensional convolutions see how bands change together, a bidirectional GRU sees the whole clip, and attentive
statistics weigh its steps. The central one pools what it sees. The federated one takes steps of 20 ms and larger
strides, which is a third of the work. Neither has a layer that mixes clips.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.data.media import SAMPLE_RATE
from moretta.shared.models.sequence_net import GROUPS, AttentiveStatistics

if TYPE_CHECKING:
    from moretta.shared.core.array_types import Float32

BANDS, STEPS = 48, 256
"""Mel bands, and steps of 10 ms: the middle 2.56 s."""
FLOOR = 1e-6
"""Smallest power in a band: that of silence, with which short clips are padded."""
_WIDTHS, _RECURRENT = (16, 32, 48, 64), 64
_COARSE = 2
"""Steps of 10 ms that the federated network sees as one."""
_USUAL, _SPREAD = -7.0, 4.0
"""About the mean and the deviation of logarithms of speech, so that nothing need be known of the clips."""


@lru_cache(maxsize=1)
def _spectra() -> Any:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, n_mels=BANDS, f_min=50, f_max=7600)


def log_mels(samples: Float32) -> Float32:
    """[samples] at 16 kHz -> float32 [48, 256], natural logarithms of power in mel bands."""
    with torch.inference_mode():
        power = _spectra()(torch.from_numpy(np.ascontiguousarray(samples, np.float32))).numpy()
    bands = np.log(power + FLOOR)
    start = max(0, (bands.shape[1] - STEPS) // 2)
    part = bands[:, start : start + STEPS]
    before = (STEPS - part.shape[1]) // 2
    after = STEPS - part.shape[1] - before
    return np.asarray(np.pad(part, ((0, 0), (before, after)), constant_values=np.log(FLOOR)), np.float32)


def coarse_log_mels(samples: Float32) -> Float32:
    """[samples] at 16 kHz -> float32 [48, 128], of about deviation 1, two steps averaged."""
    bands = log_mels(samples).reshape(BANDS, STEPS // _COARSE, _COARSE).mean(axis=2)
    return np.asarray((bands - _USUAL) / _SPREAD, np.float32)


class _AsPicture(nn.Module):
    """[n, bands, steps] to [n, 1, bands, steps]."""

    def forward(self, bands: Tensor) -> Tensor:
        """A view."""
        return bands[:, None]


class OverTime(nn.GRU):
    """[n, channels, bands, steps] to [n, 2 x 64, steps]: what a bidirectional GRU says at each step, and no state."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, _RECURRENT, bidirectional=True, batch_first=True)

    def forward(self, seen: Tensor) -> Tensor:  # type: ignore[override]
        """Each example by itself."""
        said: Tensor = super().forward(seen.flatten(1, 2).transpose(1, 2))[0]
        return said.transpose(1, 2)


def recurrent_layers(bands: int, classes: int, *, pooled: bool = False) -> list[nn.Module]:
    """[n, bands, steps], standardized, to [n, classes]; 48 bands have 155,670 weights for six classes.

    Four convolutions, each normalized by groups, halve the bands each and the steps thrice.

    Args:
        bands: of a spectrum, or values of any other step.
        classes: of emotions.
        pooled: the convolutions after the first have no stride, and maxima halve what they give; a `Dropout`, which is
            off unless somebody sets its share, comes before the last layer.
    """
    inside, layers = 1, list[nn.Module]()
    for place, width in enumerate(_WIDTHS):
        halved = (2, 2 if place < len(_WIDTHS) - 1 else 1)
        pools = pooled and place > 0
        stride = 1 if pools else halved
        layers += [nn.Conv2d(inside, width, 3, padding=1, stride=stride), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        layers += [nn.MaxPool2d(halved)] if pools else []
        inside, bands = width, bands // 2 if pools else -(-bands // 2)
    statistics = AttentiveStatistics(2 * _RECURRENT)
    layers += [OverTime(inside * bands), statistics, *([nn.Dropout(0.0)] if pooled else [])]
    return [_AsPicture(), *layers, nn.Linear(4 * _RECURRENT, classes)]
