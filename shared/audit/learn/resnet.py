"""A small residual network on small frames."""

from __future__ import annotations

from torch import Tensor, nn


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., CVPR 2016); halves the side."""

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
        """[n, inside, h, w] to [n, outside, h / 2, w / 2]."""
        summed: Tensor = self.path(x) + self.shortcut(x)
        return summed.relu()


def resnet(dimensions: int, *, width: int = 16) -> nn.Module:
    """[n, 3, 48, 48] to [n, dimensions]."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _Residual(width, 2 * width),
        _Residual(2 * width, 4 * width),
        _Residual(4 * width, 4 * width),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * width * 9, dimensions),
    )


def cnn(dimensions: int, *, width: int = 16) -> nn.Module:
    """Plain convolutions and pooling, [n, 3, 48, 48] to [n, dimensions]."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outside), nn.MaxPool2d(2)]

    return nn.Sequential(
        nn.AvgPool2d(2),
        *block(3, width),
        *block(width, 2 * width),
        *block(2 * width, 4 * width),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * width * 9, dimensions),
    )
