"""A small convolutional and recurrent network on log-mel spectra: it reads emotion off sound, centrally.

Two-dimensional convolutions see how bands change together, a bidirectional GRU sees the whole clip, and attentive
statistics weigh its steps. Recurrent cells have no gradient for every example here, so it is no federated model.
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
"""Of 10 ms each: the middle 2.56 s."""
FLOOR = 1e-6
"""Of the power in a band: silence, and what short clips are padded with."""
_WIDTHS, _RECURRENT = (16, 32, 48, 64), 64


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


class MelRecurrent(nn.Module):
    """[n, 48, steps] to [n, classes]; some 150,000 weights.

    Spectra are standardized by the mean and the deviation of each band of the training clips, [48] each.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, mean: Float32, deviation: Float32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean)[:, None])
        self.register_buffer("deviation", torch.from_numpy(deviation)[:, None])
        inside, layers = 1, list[nn.Module]()
        for place, width in enumerate(_WIDTHS):
            layers += [nn.Conv2d(inside, width, 3, padding=1, stride=1 if place else 2), nn.GroupNorm(GROUPS, width)]
            layers += [nn.ReLU(), *([nn.MaxPool2d((2, 2 if place < 3 else 1))] if place else [])]
            inside = width
        self.convolutions = nn.Sequential(*layers)
        self.recurrent = nn.GRU(inside * (BANDS // 16), _RECURRENT, bidirectional=True, batch_first=True)
        self.out = nn.Sequential(
            AttentiveStatistics(2 * _RECURRENT), nn.Dropout(0.0), nn.Linear(4 * _RECURRENT, classes)
        )

    def forward(self, spectra: Tensor) -> Tensor:
        """Logits."""
        seen = self.convolutions(((spectra - self.mean) / self.deviation)[:, None])  # [n, width, 3, steps / 8]
        over_time, _ = self.recurrent(seen.flatten(1, 2).transpose(1, 2))
        logits: Tensor = self.out(over_time.transpose(1, 2))
        return logits
