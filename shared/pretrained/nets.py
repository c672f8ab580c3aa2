"""The pretrained networks, as bare modules: listing the attackers does not load torch.

Parameters carry the names of the published checkpoints, so that those load strictly. Sources:

* CAM++, a densely connected TDNN whose layers are masked by their context. Wang, Zheng, Chen, Cheng, Chen, "CAM++: A
  Fast and Efficient Network for Speaker Verification Using Context-Aware Masking", Interspeech 2023 (arXiv
  2303.00332), section 2 and table 1; checkpoints of 3D-Speaker.
* GE2E, an LSTM. Wan, Wang, Papir, Lopez Moreno, "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018
  (arXiv 1710.10467), section 2; the sizes are those of Resemblyzer's checkpoint.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

FBANK_BINS = 80
EMBEDDING = 192
GROWTH = 32
"""Channels each dense layer adds."""
BOTTLENECK = 128
"""Channels a dense layer works on."""
BLOCKS = ((12, 1), (24, 2), (16, 2))
"""Dense layers and dilation of each block; all kernels are 3 frames wide."""
SEGMENT = 100
"""Frames (2 s after the first layer's stride) over which the local context is averaged."""
_FRONT_CHANNELS = 32


def named(**parts: nn.Module) -> nn.Sequential:
    """Modules in a row, under these names."""
    return nn.Sequential(OrderedDict(parts))


def _normalized(channels: int) -> nn.Sequential:
    return named(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU())


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions over frequency and time with a shortcut; `stride` acts on frequency only."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        n = _FRONT_CHANNELS
        self.conv1 = nn.Conv2d(n, n, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n)
        self.conv2 = nn.Conv2d(n, n, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n)
        shorter = [nn.Conv2d(n, n, 1, stride=(stride, 1), bias=False), nn.BatchNorm2d(n)] if stride > 1 else []
        self.shortcut = nn.Sequential(*shorter)

    def forward(self, x: Tensor) -> Tensor:  # [B, 32, F, T] to [B, 32, F / stride, T]
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _FrontEnd(nn.Module):
    """The convolutional front end (section 2.3): frequency is cut to an eighth, time is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _FRONT_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_FRONT_CHANNELS)
        self.layer1 = nn.Sequential(_ResidualBlock(2), _ResidualBlock(1))
        self.layer2 = nn.Sequential(_ResidualBlock(2), _ResidualBlock(1))
        self.conv2 = nn.Conv2d(_FRONT_CHANNELS, _FRONT_CHANNELS, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_FRONT_CHANNELS)

    def forward(self, fbank: Tensor) -> Tensor:  # [B, 80, T] to [B, 320, T]
        x = nn.functional.relu(self.bn1(self.conv1(fbank[:, None])))  # [B, 32, 80, T]
        x = self.layer2(self.layer1(x))  # [B, 32, 20, T]
        return nn.functional.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class ContextMask(nn.Module):
    """A convolution over time whose channels are weighted by global and local context (section 2.2, equations 2-5)."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(BOTTLENECK, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(BOTTLENECK, BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(BOTTLENECK // 2, GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 128, T] to [B, 32, T]."""
        segments = nn.functional.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True)  # [B, 128, ceil(T / 100)]
        context = x.mean(dim=-1, keepdim=True) + segments
        # The mask is constant within a segment: computing it once per segment, not per frame, is the same.
        mask = torch.sigmoid(self.linear2(nn.functional.relu(self.linear1(context))))
        mask = mask.repeat_interleave(SEGMENT, dim=-1)[..., : x.shape[-1]]
        masked: Tensor = self.linear_local(x) * mask
        return masked


class _DenseBlock(nn.Sequential):
    """Each layer (normalize, squeeze, normalize, masked convolution) sees the input and all that others added to it."""

    def __init__(self, channels: int, layers: int, dilation: int) -> None:
        super().__init__()
        for i in range(layers):
            inside = channels + i * GROWTH
            parts: dict[str, nn.Module] = {"nonlinear1": _normalized(inside)}
            parts["linear1"] = nn.Conv1d(inside, BOTTLENECK, 1, bias=False)
            parts |= {"nonlinear2": _normalized(BOTTLENECK), "cam_layer": ContextMask(dilation)}
            self.add_module(f"tdnnd{i + 1}", named(**parts))

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, T] to [B, channels + 32 layers, T]
        for layer in self:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class _Statistics(nn.Module):
    """Mean and standard deviation over time. One frame has a deviation of 0."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, T] to [B, 2C, 1]
        mean = x.mean(dim=-1, keepdim=True)
        deviation = x.std(dim=-1, keepdim=True) if x.shape[-1] > 1 else torch.zeros_like(mean)
        return torch.cat([mean, deviation], dim=1)


class CamPlusPlus(nn.Module):
    """Speaker encoder of 7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _FrontEnd()
        # Five frames wide, every second frame kept: [B, 320, T] to [B, 128, T / 2].
        first = nn.Conv1d(_FRONT_CHANNELS * FBANK_BINS // 8, BOTTLENECK, 5, stride=2, padding=2, bias=False)
        parts: dict[str, nn.Module] = {"tdnn": named(linear=first, nonlinear=_normalized(BOTTLENECK))}
        channels = BOTTLENECK
        for number, (layers, dilation) in enumerate(BLOCKS, start=1):
            parts[f"block{number}"] = _DenseBlock(channels, layers, dilation)
            channels += layers * GROWTH
            halve = nn.Conv1d(channels, channels // 2, 1, bias=False)
            parts[f"transit{number}"] = named(nonlinear=_normalized(channels), linear=halve)
            channels //= 2
        parts |= {"out_nonlinear": _normalized(channels), "stats": _Statistics()}
        last = nn.Conv1d(2 * channels, EMBEDDING, 1, bias=False)
        parts["dense"] = named(linear=last, nonlinear=named(batchnorm=nn.BatchNorm1d(EMBEDDING, affine=False)))
        self.xvector = named(**parts)

    def forward(self, fbank: Tensor) -> Tensor:
        """Log mel energies [B, T, 80], mean over time removed, to embeddings [B, 192], not normalized."""
        embedding: Tensor = self.xvector(self.head(fbank.transpose(1, 2))).squeeze(-1)
        return embedding


GE2E_MEL_BINS, GE2E_HIDDEN, GE2E_LAYERS = 40, 256, 3


class Ge2e(nn.Module):
    """Three LSTM layers; the last state of the last one is the utterance."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(GE2E_MEL_BINS, GE2E_HIDDEN, GE2E_LAYERS, batch_first=True)
        self.linear = nn.Linear(GE2E_HIDDEN, GE2E_HIDDEN)

    def forward(self, mel: Tensor) -> Tensor:
        """Mel power [B, T, 40] to embeddings [B, 256] of length 1."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
