"""The global weights that a site is asked to train or to test: checked by themselves, before any clip is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moretta.shared.core.errors import RefusedError
from moretta.shared.models.emotion import MIN_STD, EmotionModel

LARGEST_WEIGHT = 1e6
LARGEST_SHARPNESS = 60.0
"""Of a temperature, as the logarithm of its inverse: its exponential stays within float32."""
LARGEST_INPUT = 1e15
"""Of the standardisation: what is released with much noise is as large as the noise."""
_LEAST_STD = MIN_STD / 2
_LARGEST = {"sharpness": LARGEST_SHARPNESS, "mean": LARGEST_INPUT, "std": LARGEST_INPUT}


def checked_weights(
    model: EmotionModel, weights: Mapping[str, npt.NDArray[Any]], shape: tuple[int, ...] | None = None
) -> dict[str, torch.Tensor]:
    """The weights as tensors, if they are weights of this model that a study could have come to.

    Bounded weights and bounded inputs keep every product within float32. What still overflows in a later step is
    handled unit by unit where gradients are clipped.

    Args:
        model: which.
        weights: what the coordinator sent.
        shape: of one clip's input, where it is known; None takes it from the standardisation.

    Raises:
        RefusedError: other names, types or shapes, or values that cannot be. It depends on the weights alone.
    """
    wanted = _shapes(model, weights, shape)
    found = {name: (str(array.dtype), array.shape) for name, array in weights.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise RefusedError(
            f"weights of the {model.modality} model {model.name!r} with other arrays: {', '.join(odd)[:200]}",
            expected="those of the model that the study names, float32",
        )
    for name, array in weights.items():
        largest = _LARGEST.get(name.rpartition(".")[2], LARGEST_WEIGHT)
        least = _LEAST_STD if name == "0.std" else -largest
        if not (array >= least).all() or not (array <= largest).all():  # false for NaN
            raise RefusedError(
                f"weights of the {model.modality} model {model.name!r}: {name} has values that cannot be",
                expected=f"finite values from {least:g} to {largest:g}",
            )
    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def _shapes(
    model: EmotionModel, weights: Mapping[str, npt.NDArray[Any]], shape: tuple[int, ...] | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    inputs = weights["0.mean"].shape if shape is None and "0.mean" in weights else shape or ()
    try:
        with torch.device("meta"):
            built = model.build(inputs).state_dict()
    except Exception as error:  # torch raises many kinds for shapes that no network has
        raise RefusedError(
            f"weights of the {model.modality} model {model.name!r} for inputs of {list(inputs)}",
            expected="those of the model that the study names",
        ) from error
    return {name: ("float32", tuple(tensor.shape)) for name, tensor in built.items()}
