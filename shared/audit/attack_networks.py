"""The small networks that attackers train, as bare modules.

They lie outside the folder of plug-ins: to list the attackers does not load torch. `wider` multiplies all widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moretta.shared.models.sequence_net import AttentiveStatistics

DROPOUT = 0.2


def tdnn(coefficients: int, dimensions: int, *, wider: int = 1, dropout: float = DROPOUT) -> nn.Module:
    """Dilated convolutions over time with attentive pooling: [n, coefficients, time] to [n, dimensions].

    An x-vector network (Snyder et al., ICASSP 2018) made small, at half the frame rate.
    """
    width = 96 * wider

    def layer(inside: int, kernel: int, dilation: int = 1, stride: int = 1) -> list[nn.Module]:
        padding = dilation * (kernel // 2)
        convolution = nn.Conv1d(inside, width, kernel, stride=stride, dilation=dilation, padding=padding)
        return [convolution, nn.ReLU(), nn.BatchNorm1d(width)]

    return nn.Sequential(
        *layer(coefficients, 5, stride=2),
        *layer(width, 3, dilation=2),
        *layer(width, 3, dilation=3),
        *layer(width, 1),
        AttentiveStatistics(width),
        nn.BatchNorm1d(2 * width),
        nn.Dropout(dropout),
        nn.Linear(2 * width, dimensions),
    )


class _Block(nn.Module):
    """A dilated convolution with a shortcut, whose channels are weighed by their means over time: [n, width, time]."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        over_time = nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation)
        parts = [over_time, nn.ReLU(), nn.BatchNorm1d(width), nn.Conv1d(width, width, 1), nn.ReLU()]
        self.path = nn.Sequential(*parts, nn.BatchNorm1d(width))
        self.weigh = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.path(x)
        weights: Tensor = self.weigh(y.mean(2))
        return x + y * weights[:, :, None]


class _Ecapa(nn.Module):
    """See `ecapa`."""

    def __init__(self, coefficients: int, dimensions: int, width: int, dropout: float) -> None:
        super().__init__()
        first = nn.Conv1d(coefficients, width, 5, stride=2, padding=2)
        self.first = nn.Sequential(first, nn.ReLU(), nn.BatchNorm1d(width))
        self.blocks = nn.ModuleList(_Block(width, dilation) for dilation in (2, 3, 4))
        self.together = nn.Sequential(nn.Conv1d(3 * width, 2 * width, 1), nn.ReLU(), AttentiveStatistics(2 * width))
        self.last = nn.Sequential(nn.BatchNorm1d(4 * width), nn.Dropout(dropout), nn.Linear(4 * width, dimensions))

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.first(x)]
        for block in self.blocks:
            levels.append(block(levels[-1]))
        found: Tensor = self.last(self.together(torch.cat(levels[1:], dim=1)))
        return found


def ecapa(coefficients: int, dimensions: int, *, wider: int = 1, dropout: float = DROPOUT) -> nn.Module:
    """Blocks of dilated convolutions, pooled together: [n, coefficients, time] to [n, dimensions].

    ECAPA-TDNN (Desplanques, Thienpondt and Demuynck, Interspeech 2020, section 3) made small: shortcuts, channels
    weighed by their means, all blocks pooled by attention. It has no Res2 splits, and half the frame rate.
    """
    return _Ecapa(coefficients, dimensions, 96 * wider, dropout)


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016): [n, inside, h, w] to [n, outside, h / 2, w / 2]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride=2, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.path(x) + self.shortcut(x)
        return summed.relu()


def resnet(dimensions: int, *, wider: int = 1, dropout: float = DROPOUT) -> nn.Module:
    """[n, 3, 48, 48] to [n, dimensions]."""
    width = 16 * wider
    first = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    blocks = _Residual(width, 2 * width), _Residual(2 * width, 4 * width), _Residual(4 * width, 4 * width)
    return nn.Sequential(*first, *blocks, nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * 9, dimensions))


def picture_cnn(dimensions: int, *, wider: int = 1, dropout: float = DROPOUT) -> nn.Module:
    """Plain convolutions and pooling, [n, 3, 48, 48] to [n, dimensions]."""
    width = 16 * wider

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outside), nn.MaxPool2d(2)]

    blocks = [*block(3, width), *block(width, 2 * width), *block(2 * width, 4 * width)]
    tail = nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * 9, dimensions)
    return nn.Sequential(nn.AvgPool2d(2), *blocks, *tail)
