"""Did an attacker learn what it was shown? One that did not is void: its failure says nothing about the release."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.server.audit.attackers.base import NotConvergedError

MIN_TRAINING_GAIN = 0.25
"""Least training accuracy, as the share of the way from chance to certainty."""


def check_learned(x: npt.NDArray[Any], y: npt.NDArray[np.int64], predicted: npt.NDArray[np.integer]) -> None:
    """Compare training labels [n] with what the trained attacker says of its own training data x [n, ...].

    Data in which all clips are equal cannot be learned, and that is no fault: the constant anchor is such.

    Raises:
        NotConvergedError: the training data were not learned.
    """
    if bool((x == x[0]).all()):
        return
    chance = 1 / len(np.unique(y))
    accuracy = float((predicted == y).mean())
    if not accuracy >= chance + MIN_TRAINING_GAIN * (1 - chance):
        raise NotConvergedError(
            f"training accuracy {accuracy:.2f} where chance is {chance:.2f}",
            expected=f"at least {chance + MIN_TRAINING_GAIN * (1 - chance):.2f}: it did not converge",
        )
