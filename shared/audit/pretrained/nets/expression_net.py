"""The expression network of face-api: depthwise separable convolutions in four small dense blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
SIDE = 112
CHANNELS = (32, 64, 128, 256)
MEAN_RGB = (122.782, 117.001, 104.298)
"""Subtracted from 8-bit pixels before they are divided by 255: face-api's constants."""


class SameConv(nn.Module):
    """A 3x3 convolution padded as TensorFlow does: an odd row or column of zeros goes below and to the right."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, groups: int = 1, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, groups=groups, bias=bias)
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, ceil(S / stride), same]."""
        size = x.shape[-1]
        total = max((-(-size // self._stride) - 1) * self._stride + 3 - size, 0)
        before, after = total // 2, total - total // 2
        convolved: Tensor = self.conv(nn.functional.pad(x, (before, after, before, after)))
        return convolved


class SeparableConv(nn.Module):
    """Each channel on its own, then all of them together."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SameConv(inputs, inputs, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S / stride, S / stride]."""
        convolved: Tensor = self.pointwise(self.depthwise(x))
        return convolved


class DenseBlock(nn.Module):
    """Four convolutions at half the size, each hearing the sum of all before it."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.conv0: nn.Module = SameConv(inputs, outputs, 2, bias=True) if first else SeparableConv(inputs, outputs, 2)
        self.conv1 = SeparableConv(outputs, outputs, 1)
        self.conv2 = SeparableConv(outputs, outputs, 1)
        self.conv3 = SeparableConv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S / 2, S / 2]."""
        total: Tensor = torch.relu(self.conv0(x))
        total_activated = total
        for conv in (self.conv1, self.conv2, self.conv3):
            total = total + conv(total_activated)
            total_activated = torch.relu(total)
        return total_activated


class ExpressionNet(nn.Module):
    """Aligned faces to logits of seven expressions."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        self.blocks = nn.Sequential(
            *(DenseBlock(i, o, first=n == 0) for n, (i, o) in enumerate(zip(inputs, CHANNELS, strict=True)))
        )
        self.fc = nn.Linear(CHANNELS[-1], len(CLASSES))

    def forward(self, faces: Tensor) -> Tensor:
        """[B, 3, 112, 112], RGB of 0 to 255, to logits [B, 7] in the order of `CLASSES`."""
        mean = faces.new_tensor(MEAN_RGB)[:, None, None]
        pooled = self.blocks((faces - mean) / 255).mean(dim=(2, 3))  # [B, 256] from 7 x 7
        logits: Tensor = self.fc(pooled)
        return logits
