"""face-api's networks for faces, as bare modules: what was published with them is their weights and their source.

Parameters carry the names of its files of weights, as `tfjs.fill` turns them. Both networks are made of depthwise
separable convolutions: in four small dense blocks for expressions, and for age and sex as in Chollet, "Xception: Deep
Learning with Depthwise Separable Convolutions", CVPR 2017 (figure 5), with two blocks in the middle and not eight.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from moretta.shared.pretrained.nets import named

FACE_SIDE = 112
"""Pixels of the square that both networks see."""
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
EXPRESSION_CHANNELS = (32, 64, 128, 256)
MEAN_RGB = (122.782, 117.001, 104.298)
"""face-api subtracts it from 8-bit pixels, and then divides by 255 for expressions and by 256 for age and sex."""


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
        mean = faces.new_tensor(MEAN_RGB)[:, None, None]
        pooled = self.blocks((faces - mean) / 255).mean(dim=(2, 3))  # [B, 256] from 7 x 7
        logits: Tensor = self.fc(pooled)
        return logits


SEXES = ("male", "female")
"""In the order of the network's outputs."""
_MIDDLE_BLOCKS = 2


class _ReductionBlock(nn.Module):
    """Two separable convolutions and a maximum at half the size, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, activated: bool) -> None:
        super().__init__()
        self.separable_conv0 = _SeparableConv(inputs, outputs, 1)
        self.separable_conv1 = _SeparableConv(outputs, outputs, 1)
        self.expansion_conv = named(conv=nn.Conv2d(inputs, outputs, 1, stride=2))
        self._activated = activated

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, S, S], S even, to [B, outputs, S / 2, S / 2]
        out = self.separable_conv0(x if self._activated else torch.relu(x))
        out = self.separable_conv1(torch.relu(out))
        # TensorFlow pads an even side below and to the right alone; what is padded never is the maximum.
        out = nn.functional.max_pool2d(nn.functional.pad(out, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        shortened: Tensor = out + self.expansion_conv(x)
        return shortened


class _MiddleBlock(nn.Module):
    """Three separable convolutions of activations, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.separable_conv0, self.separable_conv1, self.separable_conv2 = (
            _SeparableConv(channels, channels, 1) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, S, S] to the same
        out = x
        for conv in (self.separable_conv0, self.separable_conv1, self.separable_conv2):
            out = conv(torch.relu(out))
        return out + x


class AgeSexNet(nn.Module):
    """Faces to an age and to logits of two sexes."""

    def __init__(self) -> None:
        super().__init__()
        self.entry_flow = named(
            conv_in=_SameConv(3, 32, 2, bias=True),
            relu=nn.ReLU(),
            reduction_block_0=_ReductionBlock(32, 64, activated=True),
            reduction_block_1=_ReductionBlock(64, 128, activated=False),
        )
        self.middle_flow = named(**{f"main_block_{n}": _MiddleBlock(128) for n in range(_MIDDLE_BLOCKS)})
        self.exit_flow = named(
            reduction_block=_ReductionBlock(128, 256, activated=False), separable_conv=_SeparableConv(256, 512, 1)
        )
        self.fc = nn.ModuleDict({"age": nn.Linear(512, 1), "gender": nn.Linear(512, len(SEXES))})

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 112, 112], RGB of 0 to 255, to ages in years [B] and logits [B, 2] in the order of `SEXES`."""
        mean = faces.new_tensor(MEAN_RGB)[:, None, None]
        out = self.middle_flow(self.entry_flow((faces - mean) / 256))  # [B, 128, 14, 14]
        out = torch.relu(self.exit_flow(out))  # [B, 512, 7, 7]
        pooled = out.mean(dim=(2, 3))
        return self.fc["age"](pooled)[:, 0], self.fc["gender"](pooled)
