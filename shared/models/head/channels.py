"""Expression channels: a face's movement in a few numbers that do not depend on whose face it is.

A channel stands for one or two action units of Ekman and Friesen, "Facial Action Coding System" (1978), moves both
sides alike, and is 0 in a relaxed face and 1 at full strength. Gaze is in radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.models.head.expression import Recipe, spread_actions

ACTIONS: dict[str, Recipe] = {
    "brows lowered": {"browDown": 1.0, "eyebrows-down": 1.0},
    "inner brows raised": {"browInnerUp": 0.8, "eyebrows-inner-up": 1.0},
    "outer brows raised": {"browOuterUp": 1.0},
    "lids closed": {"eyeBlink": 1.0},
    "lids raised": {"eyeWide": 1.0},
    "lower lids tightened": {"eyeSquint": 1.0, "cheekSquint": 1.0},
    "nose wrinkled": {"noseSneer": 1.0, "nose-elevation": 0.5},
    "upper lip raised": {"mouthUpperUp": 1.0},
    "lip corners up": {"mouthSmile": 1.0, "mouthDimple": 0.3},
    "lip corners down": {"mouthFrown": 1.0, "mouth-depression": 0.5},
    "lip corners apart": {"mouthStretch": 1.0, "mouth-depression-retraction": 0.3},
    "lower lip lowered": {"mouthLowerDown": 1.0},
    "jaw open": {"jawOpen": 1.0},
    "lips pressed": {"mouthPress": 1.0, "mouthRollUpper": 0.7, "mouthRollLower": 0.7},
    "lips pushed out": {"mouthPucker": 0.7, "mouthFunnel": 0.5},
}
GAZE = ("eyes left", "eyes up")
CHANNELS = (*ACTIONS, *GAZE)
"""In the order of a track's columns."""


def action_weights(values: Sequence[float] | npt.NDArray[Any]) -> dict[str, float]:
    """Weights of the head's shape targets for one frame of a track, [channels]; gaze moves no target."""
    weights: dict[str, float] = {}
    for value, targets in zip(values[: len(ACTIONS)], channel_targets(), strict=True):
        if value > 0:
            for target, share in targets.items():
                weights[target] = weights.get(target, 0.0) + float(value) * share
    return weights


@cache
def channel_targets() -> tuple[dict[str, float], ...]:
    """The shape targets of each action at full strength, in the order of `ACTIONS`."""
    return tuple(spread_actions(recipe) for recipe in ACTIONS.values())


def mirrored(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same movement seen in a mirror, [..., channels]: only the sideways gaze turns."""
    turned = values.copy()
    turned[..., CHANNELS.index(GAZE[0])] *= -1
    return turned
