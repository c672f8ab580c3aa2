"""CAM++: a densely connected TDNN whose layers are masked by their context.

Source: Wang, Zheng, Chen, Cheng, Chen, "CAM++: A Fast and Efficient Network for Speaker Verification Using
Context-Aware Masking", Interspeech 2023 (arXiv 2303.00332), section 2 and table 1. Parameters carry the names of the
published 3D-Speaker checkpoints, so that those load strictly.
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


def _normalized(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over frequency and time with a shortcut; `stride` acts on frequency only."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        channels = _FRONT_CHANNELS
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 32, F, T] to [B, 32, F / stride, T]."""
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class FrontEnd(nn.Module):
    """The convolutional front end (section 2.3): frequency is cut to an eighth, time is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _FRONT_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_FRONT_CHANNELS)
        self.layer1 = nn.Sequential(ResidualBlock(2), ResidualBlock(1))
        self.layer2 = nn.Sequential(ResidualBlock(2), ResidualBlock(1))
        self.conv2 = nn.Conv2d(_FRONT_CHANNELS, _FRONT_CHANNELS, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_FRONT_CHANNELS)

    def forward(self, fbank: Tensor) -> Tensor:
        """[B, 80, T] to [B, 320, T]."""
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


class DenseLayer(nn.Module):
    """Normalize, squeeze to the bottleneck, normalize, masked convolution."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _normalized(channels)
        self.linear1 = nn.Conv1d(channels, BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _normalized(BOTTLENECK)
        self.cam_layer = ContextMask(dilation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T] to [B, 32, T]: only what this layer adds."""
        added: Tensor = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))
        return added


class DenseTdnnBlock(nn.Sequential):
    """Each layer sees the input and what all layers before it added."""

    def __init__(self, channels: int, layers: int, dilation: int) -> None:
        super().__init__(
            OrderedDict((f"tdnnd{i + 1}", DenseLayer(channels + i * GROWTH, dilation)) for i in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T] to [B, channels + 32 layers, T]."""
        for layer in self:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Transition(nn.Module):
    """Halves the channels between blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = _normalized(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T] to [B, channels / 2, T]."""
        halved: Tensor = self.linear(self.nonlinear(x))
        return halved


class InputLayer(nn.Module):
    """The first time-delay layer: five frames wide, every second frame kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, BOTTLENECK, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _normalized(BOTTLENECK)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T] to [B, 128, T / 2]."""
        activated: Tensor = self.nonlinear(self.linear(x))
        return activated


class Statistics(nn.Module):
    """Mean and standard deviation over time. One frame has a deviation of 0."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] to [B, 2C, 1]."""
        mean = x.mean(dim=-1, keepdim=True)
        deviation = x.std(dim=-1, keepdim=True) if x.shape[-1] > 1 else torch.zeros_like(mean)
        return torch.cat([mean, deviation], dim=1)


class OutputLayer(nn.Module):
    """The embedding, normalized without learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, EMBEDDING, 1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(EMBEDDING, affine=False)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, 1] to [B, 192]."""
        embedding: Tensor = self.nonlinear(self.linear(x).squeeze(-1))
        return embedding


class CamPlusPlus(nn.Module):
    """Speaker encoder of 7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.head = FrontEnd()
        parts: OrderedDict[str, nn.Module] = OrderedDict(tdnn=InputLayer(_FRONT_CHANNELS * FBANK_BINS // 8))
        channels = BOTTLENECK
        for number, (layers, dilation) in enumerate(BLOCKS, start=1):
            parts[f"block{number}"] = DenseTdnnBlock(channels, layers, dilation)
            channels += layers * GROWTH
            parts[f"transit{number}"] = Transition(channels)
            channels //= 2
        parts["out_nonlinear"] = _normalized(channels)
        parts["stats"] = Statistics()
        parts["dense"] = OutputLayer(2 * channels)
        self.xvector = nn.Sequential(parts)

    def forward(self, fbank: Tensor) -> Tensor:
        """Log mel energies [B, T, 80], mean over time removed, to embeddings [B, 192], not normalized."""
        embedding: Tensor = self.xvector(self.head(fbank.transpose(1, 2)))
        return embedding
