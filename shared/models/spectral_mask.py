"""A mask of spectra that is trained once and then fixed, and the mel bands of what it lets pass.

Luong et al. 2023 (arXiv 2308.04960): a U-Net reads magnitudes of a mixture and gives a mask from 0 to 1. It is
trained, by absolute error, to leave the magnitudes of what may be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.workers import seeded
from moretta.shared.features.mfcc import SAMPLE_RATE, check_samples
from moretta.shared.models.adversaries import batches
from moretta.shared.models.optimizers import step_down

WINDOW_SAMPLES, HOP_SAMPLES = 512, 320
BINS, MELS = WINDOW_SAMPLES // 2 + 1, 64
FRAMES = 160
"""Frames of an encoder's input: 3.2 s, so that all clips have the same share of silence beside them."""
CHANNELS = (4, 8, 16, 32, 64)
_FLOOR, _RANGE_DECIBEL = 1e-10, 80.0
_GROUPS, _KERNEL, _DROPOUT, _DROPPED = 4, 5, 0.5, 3
_BATCH, _RATE = 16, 1e-3


def magnitudes(samples: Array) -> Tensor:
    """[257, 1 + samples // 320] of a mono clip at 16 kHz: Hamming windows of 32 ms every 20 ms. Errors: see
    `check_samples`."""
    sound = torch.from_numpy(check_samples(samples))
    spectrum = torch.stft(
        sound, WINDOW_SAMPLES, HOP_SAMPLES, window=_window(), pad_mode="constant", return_complex=True
    )
    return spectrum.abs()


def mel_decibels(found: Tensor) -> Tensor:
    """Magnitudes [..., 257, t] to the decibels of 64 mel bands [..., 64, t], at most 80 below the loudest."""
    energy = (_bands() @ found.square()).clamp_min(_FLOOR)
    decibels = 10 * energy.log10()
    return decibels.maximum(decibels.amax(dim=(-2, -1), keepdim=True) - _RANGE_DECIBEL)


class MaskNet(nn.Module):
    """A U-Net from magnitudes [n, 257, t] to a mask of them from 0 to 1 (Jansson et al., ISMIR 2017, at a quarter).

    Its input is relative to the mean of the clip, so that level changes no mask.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, *CHANNELS)
        self.down = nn.ModuleList(_down(of, to) for of, to in pairwise(sizes))
        ups = [(CHANNELS[-1], CHANNELS[-2])]
        ups += [(2 * CHANNELS[level], sizes[level]) for level in range(len(CHANNELS) - 2, -1, -1)]
        self.up = nn.ModuleList(_up(of, to, number) for number, (of, to) in enumerate(ups))

    def forward(self, found: Tensor) -> Tensor:
        """The mask."""
        relative = found / found.mean(dim=(-2, -1), keepdim=True).clamp_min(_FLOOR)
        frames, step = found.shape[-1], 2 ** len(CHANNELS)
        now = functional.pad(relative[:, None, : BINS - 1].log1p(), (0, -frames % step))
        passed = []
        for layer in self.down:
            now = layer(now)
            passed.append(now)
        for number, layer in enumerate(self.up):
            now = layer(now if number == 0 else torch.cat([now, passed[-1 - number]], dim=1))
        mask = torch.sigmoid(now[:, 0, :, :frames])
        return functional.pad(mask, (0, 0, 0, 1), mode="replicate")


def train_mask(mixtures: Sequence[Tensor], targets: Sequence[Tensor], *, epochs: int, seed: int) -> MaskNet:
    """Train on pairs of magnitudes [257, t]: the mask of a mixture is to leave its target, by absolute error.

    Args:
        mixtures: all of as many frames.
        targets: the same, aligned.
    """
    seen, wanted = torch.stack(list(mixtures)), torch.stack(list(targets))
    unit = seen.mean(dim=(-2, -1), keepdim=True).clamp_min(_FLOOR)
    with seeded(seed):
        network = MaskNet()
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
        for _ in range(epochs):
            for batch in batches(len(seen), _BATCH):
                missed = network(seen[batch]) * seen[batch] - wanted[batch]
                step_down((missed.abs() / unit[batch]).mean(), optimizer)
    return network.eval()


@torch.no_grad()
def masked_mels(found: Tensor, mask: MaskNet | None) -> Tensor:
    """Magnitudes [257, t] of one clip to mel bands [64, t] of what the mask lets pass; without one, of all."""
    return mel_decibels(found if mask is None else found * mask(found[None])[0])


def clip_mels(samples: Array, mask: MaskNet | None) -> Float32:
    """[64, 160] of the middle of a clip; a shorter one has its lowest value on both sides. Errors: see `magnitudes`."""
    mels = masked_mels(magnitudes(samples), mask).numpy()
    over = mels.shape[1] - FRAMES
    if over >= 0:
        return np.ascontiguousarray(mels[:, over // 2 : over // 2 + FRAMES])
    return np.pad(mels, ((0, 0), (-over // 2, -over - -over // 2)), constant_values=mels.min())


def _down(of: int, to: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(of, to, _KERNEL, 2, _KERNEL // 2), nn.GroupNorm(_GROUPS, to), nn.LeakyReLU(0.2))


def _up(of: int, to: int, number: int) -> nn.Module:
    made = nn.ConvTranspose2d(of, to, _KERNEL, 2, _KERNEL // 2, output_padding=1)
    if to == 1:
        return made
    dropout = [nn.Dropout2d(_DROPOUT)] if number < _DROPPED else []
    return nn.Sequential(made, nn.GroupNorm(_GROUPS, to), nn.ReLU(), *dropout)


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hamming_window(WINDOW_SAMPLES)


@lru_cache(maxsize=1)
def _bands() -> Tensor:
    from torchaudio.functional import melscale_fbanks

    bands: Tensor = melscale_fbanks(BINS, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney").T
    return bands
