"""What a strategy remembers from round to round, as arrays: without it a resumed run would go another way.

FedAvgM keeps its momentum and the weights it left off at; FedAdagrad, FedAdam and FedYogi keep two moments. The other
strategies remember nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moretta.shared.messages import wire

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg

Array = npt.NDArray[Any]
_MOMENTS = ("m_t", "v_t")
_MOMENTUM = "momentum_vector"
_WEIGHTS = "current_arrays"


def remembered(strategy: FedAvg) -> dict[str, Array]:
    """What a strategy remembers, by `attribute/name`."""
    arrays: dict[str, Array] = {}
    for attribute in _MOMENTS:
        for name, array in (getattr(strategy, attribute, None) or {}).items():
            arrays[f"{attribute}/{name}"] = np.asarray(array)
    for index, array in enumerate(getattr(strategy, _MOMENTUM, None) or []):
        arrays[f"{_MOMENTUM}/{index:06d}"] = np.asarray(array)
    if hasattr(strategy, _MOMENTUM):
        for name, packed in (getattr(strategy, _WEIGHTS, None) or {}).items():
            arrays[f"{_WEIGHTS}/{name}"] = packed.numpy()
    return arrays


def remind(strategy: FedAvg, arrays: dict[str, Array]) -> None:
    """Give a new strategy what one of its kind remembered."""
    parts: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        attribute, name = key.split("/", 1)
        parts.setdefault(attribute, {})[name] = array
    for attribute, named in parts.items():
        if attribute == _MOMENTUM:
            setattr(strategy, attribute, [named[index] for index in sorted(named)])
        elif attribute == _WEIGHTS:
            setattr(strategy, attribute, wire.arrays_to_record(named))
        else:
            setattr(strategy, attribute, named)
