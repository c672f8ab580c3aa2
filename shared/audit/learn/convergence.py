"""Did an attacker learn what it was shown? One that did not is invalid: its failure says nothing about the release."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import NotConvergedError

MIN_TRAINING_GAIN = 0.25
"""Least training accuracy, as the share of the way from chance to the best that there is."""


def check_learned(x: npt.NDArray[Any], y: npt.NDArray[np.int64], predicted: npt.NDArray[np.integer]) -> None:
    """Compare training labels [n] with what the trained attacker says of its own training data x [n, ...].

    Clips that are equal cannot be told apart, and that is no fault: where one of six words is released of each, nobody
    can do better than to say of each word who uses it most. Where all are equal, as in the constant anchor, nothing can
    be learned.

    Raises:
        NotConvergedError: the training data were not learned.
    """
    if bool((x == x[0]).all()):
        return
    chance = 1 / len(np.unique(y))
    accuracy = float((predicted == y).mean())
    least = chance + MIN_TRAINING_GAIN * (_best(x, y) - chance)
    if not accuracy >= least:
        raise NotConvergedError(
            f"training accuracy {accuracy:.2f} where chance is {chance:.2f}",
            expected=f"at least {least:.2f}: it did not converge",
        )


def _best(x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> float:
    """The training accuracy of whoever says of equal clips the label that most of them have."""
    labels: dict[bytes, list[int]] = defaultdict(list)
    for row, label in zip(x, y.tolist(), strict=True):
        labels[np.ascontiguousarray(row).tobytes()].append(label)
    return sum(max(Counter(found).values()) for found in labels.values()) / len(y)
