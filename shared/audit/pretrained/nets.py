"""The pretrained networks, as bare modules: listing the attackers does not load torch.

Parameters carry the names of the published checkpoints, so that those load strictly. Sources:

* CAM++, a densely connected TDNN whose layers are masked by their context. Wang, Zheng, Chen, Cheng, Chen, "CAM++: A
  Fast and Efficient Network for Speaker Verification Using Context-Aware Masking", Interspeech 2023 (arXiv
  2303.00332), section 2 and table 1; checkpoints of 3D-Speaker.
* GE2E, an LSTM. Wan, Wang, Papir, Lopez Moreno, "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018
  (arXiv 1710.10467), section 2; the sizes are those of Resemblyzer's checkpoint.
* The expression network of face-api: depthwise separable convolutions in four small dense blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

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


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _normalized(channels: int) -> nn.Sequential:
    return _named(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU())


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
            self.add_module(f"tdnnd{i + 1}", _named(**parts))

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
        parts: dict[str, nn.Module] = {"tdnn": _named(linear=first, nonlinear=_normalized(BOTTLENECK))}
        channels = BOTTLENECK
        for number, (layers, dilation) in enumerate(BLOCKS, start=1):
            parts[f"block{number}"] = _DenseBlock(channels, layers, dilation)
            channels += layers * GROWTH
            halve = nn.Conv1d(channels, channels // 2, 1, bias=False)
            parts[f"transit{number}"] = _named(nonlinear=_normalized(channels), linear=halve)
            channels //= 2
        parts |= {"out_nonlinear": _normalized(channels), "stats": _Statistics()}
        last = nn.Conv1d(2 * channels, EMBEDDING, 1, bias=False)
        parts["dense"] = _named(linear=last, nonlinear=_named(batchnorm=nn.BatchNorm1d(EMBEDDING, affine=False)))
        self.xvector = _named(**parts)

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


EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
EXPRESSION_SIDE = 112
EXPRESSION_CHANNELS = (32, 64, 128, 256)
EXPRESSION_MEAN_RGB = (122.782, 117.001, 104.298)
"""Subtracted from 8-bit pixels before they are divided by 255: face-api's constants."""


class _SameConv(nn.Module):
    """A 3x3 convolution padded as TensorFlow does: an odd row or column of zeros goes below and to the right."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, groups: int = 1, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, groups=groups, bias=bias)
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, S, S] to [B, outputs, ceil(S / stride), same]
        size = x.shape[-1]
        total = max((-(-size // self._stride) - 1) * self._stride + 3 - size, 0)
        before, after = total // 2, total - total // 2
        convolved: Tensor = self.conv(nn.functional.pad(x, (before, after, before, after)))
        return convolved


class _SeparableConv(nn.Module):
    """Each channel on its own, then all of them together."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _SameConv(inputs, inputs, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, S, S] to [B, outputs, S / stride, S / stride]
        convolved: Tensor = self.pointwise(self.depthwise(x))
        return convolved


class _ExpressionBlock(nn.Module):
    """Four convolutions at half the size, each on the sum of all before it."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.conv0 = _SameConv(inputs, outputs, 2, bias=True) if first else _SeparableConv(inputs, outputs, 2)
        self.conv1, self.conv2, self.conv3 = (_SeparableConv(outputs, outputs, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, S, S] to [B, outputs, S / 2, S / 2]
        total: Tensor = torch.relu(self.conv0(x))
        activated = total
        for conv in (self.conv1, self.conv2, self.conv3):
            total = total + conv(activated)
            activated = torch.relu(total)
        return activated


class ExpressionNet(nn.Module):
    """Aligned faces to logits of seven expressions."""

    def __init__(self) -> None:
        super().__init__()
        sides = pairwise((3, *EXPRESSION_CHANNELS))
        self.blocks = nn.Sequential(*(_ExpressionBlock(*side, first=n == 0) for n, side in enumerate(sides)))
        self.fc = nn.Linear(EXPRESSION_CHANNELS[-1], len(EXPRESSIONS))

    def forward(self, faces: Tensor) -> Tensor:
        """[B, 3, 112, 112], RGB of 0 to 255, to logits [B, 7] in the order of `EXPRESSIONS`."""
        mean = faces.new_tensor(EXPRESSION_MEAN_RGB)[:, None, None]
        pooled = self.blocks((faces - mean) / 255).mean(dim=(2, 3))  # [B, 256] from 7 x 7
        logits: Tensor = self.fc(pooled)
        return logits
