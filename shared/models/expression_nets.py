"""Two small networks that read a face's movement, and the file they are shipped in.

They were trained on drawn people alone (`deploy/synth/build_expression.py`), so the file may be given to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from moretta.shared.core.array_types import Array
from moretta.shared.models.head.expression import CHANNELS

FILE = "expression.safetensors"
POINT_SIDE = 48
"""Height and width of the picture in which points are looked for, in pixels."""
FACE_SIDE = 64
"""Height and width of the aligned face that is read, in pixels."""
POINTS = 5
"""Left and right eye of the subject, tip of the nose, middle of the lips, chin: where the skull would have them."""
_WIDTH = 12
N = TypeVar("N", bound=nn.Module)


class PointNet(nn.Sequential):
    """[N, 1, 48, 48] -> [N, 10]: (right, down) of each point from the picture's middle, in half sides."""

    def __init__(self) -> None:
        width = _WIDTH
        super().__init__(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * (POINT_SIDE // 8) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, 2 * POINTS),
        )


class ChannelNet(nn.Sequential):
    """[N, 1, 64, 64] -> [N, channels], each in units of its spread over the training pictures."""

    def __init__(self) -> None:
        width = _WIDTH

        def block(inside: int, outside: int) -> list[nn.Module]:
            return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]

        super().__init__(
            *block(1, width),
            nn.MaxPool2d(2),
            *block(width, 2 * width),
            nn.MaxPool2d(2),
            *block(2 * width, 4 * width),
            *block(4 * width, 4 * width),
            nn.MaxPool2d(2),
            *block(4 * width, 8 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * width * (FACE_SIDE // 16) ** 2, 128),
            nn.ReLU(),
            nn.Linear(128, len(CHANNELS)),
        )


def standardised(pictures: Array) -> torch.Tensor:
    """Grey pictures [N, side, side] in 0 to 255 -> [N, 1, side, side] without their own brightness and contrast."""
    values = np.asarray(pictures, np.float32)
    mean, spread = values.mean((1, 2), keepdims=True), values.std((1, 2), keepdims=True)
    return torch.from_numpy((values - mean) / (spread + 8))[:, None]


@cache
def shipped_arrays(file: str = FILE) -> dict[str, Array]:
    """Everything in a file that comes with the package, by name, read once per process."""
    from safetensors.numpy import load

    return load(files(__package__).joinpath(file).read_bytes())


def net_arrays(net: nn.Module, prefix: str) -> dict[str, Array]:
    """A network's tensors as arrays of 16 bits, half the size and as exact as needed."""
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {prefix + name: tensor.detach().numpy().astype(np.float16) for name, tensor in state.items()}


def filled(net: N, prefix: str, arrays: Mapping[str, Array]) -> N:
    """The network with tensors that `net_arrays` made, ready for inference."""
    state = {
        name.removeprefix(prefix): torch.from_numpy(array.astype(np.float32))
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    missing, unexpected = net.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"arrays do not fit {type(net).__name__}: {', '.join(wrong)}")
    return net.eval().requires_grad_(False)
