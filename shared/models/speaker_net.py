"""The network that makes a code of measurements told relative to a person, while it is trained.

What is sent to the sites are its arrays: see `moretta.shared.features.hidden_layer`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.features.hidden_layer import HiddenLayer

Floats = npt.NDArray[np.float64]

UNITS = 128
DROPOUT = 0.5


class SpeakerNet(nn.Module):
    """Places [n, m] to codes [n, d]. The last layer has no bias: a person's mean is taken away after it.

    Args:
        width: m, measurements.
        size: d, values in a code.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, UNITS)
        self.code = nn.Linear(UNITS, size, bias=False)

    def forward(self, places: Tensor) -> Tensor:
        """Inputs and units are dropped in training."""
        dropped = functional.dropout(places, DROPOUT, self.training)
        codes: Tensor = self.code(functional.dropout(torch.relu(self.hidden(dropped)), DROPOUT, self.training))
        return codes

    def arrays(self) -> tuple[HiddenLayer, Floats]:
        """The hidden units, and the directions [units, d] in them: together what `forward` is out of training."""
        weight, bias, directions = (
            tensor.detach().numpy() for tensor in (self.hidden.weight.mT, self.hidden.bias, self.code.weight.mT)
        )
        return HiddenLayer(np.ascontiguousarray(weight), bias.copy()), np.asarray(directions, np.float64)
