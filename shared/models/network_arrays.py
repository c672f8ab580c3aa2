"""A network as plain arrays, as the coordinator sends it and sites check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from moretta.shared.core.array_types import Array
from moretta.shared.study.public_arrays import Rule

LARGEST_WEIGHT = 1e3
Network = TypeVar("Network", bound=nn.Module)


@cache
def array_shapes(make: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of the network that `make` gives, by name; no random number is drawn."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


def array_rules(make: Callable[[], nn.Module], prefix: str = "") -> dict[str, Rule]:
    """Rules for the arrays of a network: shape and bounds, by `prefix` and the network's own name."""
    return {prefix + name: Rule(shape, LARGEST_WEIGHT) for name, shape in array_shapes(make).items()}


def arrays_of(network: nn.Module, prefix: str) -> dict[str, Array]:
    """The arrays of a network under these names."""
    return {prefix + name: np.asarray(tensor.detach()) for name, tensor in network.state_dict().items()}


def network_of(make: Callable[[], Network], arrays: Mapping[str, Array], prefix: str = "") -> Network:
    """The network with these arrays. Parts that have none were there for training alone, and are zeros."""
    with torch.device("meta"):
        network = make()
    state = {
        name: torch.tensor(arrays[prefix + name]) if prefix + name in arrays else torch.zeros(empty.shape)
        for name, empty in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network
