"""How each acted emotion moves the face.

A recipe weighs the asset's facial actions, which follow the action units of Ekman and Friesen, "Facial Action Coding
System" (1978). The weights were searched on people of seeds below 1000, so that an expression network trained elsewhere
reads the faces; tests/benchmarks/expressions.py measures it on others.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from moretta.shared.data.clip_names import Emotion
from moretta.shared.models.head.asset import load_asset

Recipe = dict[str, float]
"""Weight of each action; an action with a left and a right side is named without it."""

RECIPES: dict[Emotion, Recipe] = {
    Emotion.ANG: {
        "browDown": 0.45,
        "eyebrows-down": 1.0,
        "browOuterUp": 0.64,
        "eyeSquint": 0.76,
        "eyeWide": 0.4,
        "cheekSquint": 0.85,
        "noseSneer": 1.0,
        "mouthRollUpper": 0.37,
        "mouthLowerDown": 0.11,
        "mouthStretch": 0.36,
        "mouthShrugUpper": 0.33,
        "jawOpen": 0.38,
    },
    Emotion.DIS: {
        "noseSneer": 1.0,
        "nose-elevation": 0.8,
        "nose-compression": 0.43,
        "mouthUpperUp": 1.0,
        "browDown": 0.74,
        "cheekSquint": 1.0,
        "eyeSquint": 1.0,
        "mouthFrown": 0.74,
        "mouthShrugLower": 0.46,
        "mouthLowerDown": 0.19,
        "mouth-depression": 0.41,
        "jawOpen": 0.1,
    },
    Emotion.FEA: {
        "browInnerUp": 0.77,
        "eyebrows-inner-up": 1.0,
        "browDown": 0.33,
        "eyeWide": 0.5,
        "mouthStretch": 1.0,
        "jawOpen": 0.4,
        "mouthFrown": 0.38,
        "mouthPress": 0.37,
        "mouth-part-later": 0.41,
        "mouth-depression-retraction": 0.32,
        "mouthDimple": 0.38,
        "neck-platysma": 0.46,
        "noseSneer": 0.2,
    },
    Emotion.HAP: {
        "mouthSmile": 0.9,
        "cheekSquint": 0.35,
        "mouthDimple": 0.3,
        "mouthUpperUp": 0.15,
        "eyeSquint": 0.4,
        "mouthStretch": 0.12,
    },
    Emotion.NEU: {
        "eyeBlink": 0.15,
        "browDown": 0.12,
        "mouthPress": 0.2,
        "mouthRollUpper": 0.2,
        "mouthRollLower": 0.2,
    },
    Emotion.SAD: {
        "browInnerUp": 0.5,
        "eyebrows-inner-up": 1.0,
        "browDown": 0.21,
        "eyeLookDown": 0.31,
        "eyeBlink": 0.28,
        "cheekSquint": 0.6,
        "mouthFrown": 0.3,
        "mouthShrugLower": 0.22,
        "mouthShrugUpper": 0.61,
        "mouthPucker": 0.22,
        "mouth-depression": 1.0,
    },
}

STRENGTH_SPREAD = 0.12
"""Standard deviation of how much stronger or weaker one showing of an action is."""
SIDE_SPREAD = 0.06
"""Standard deviation of the difference between the sides of the face."""


@cache
def _sides(action: str) -> tuple[str, ...]:
    """Targets of the asset that make an action: one, or one for each side."""
    known = load_asset().targets
    for name in (
        action,
        action.replace("eye-", "eye-{}-").replace("eyebrows-", "eyebrows-{}-").replace("nose-", "nose-{}-"),
    ):
        for kind in ("face", "unit"):
            if f"{kind}/{name}" in known:
                return (f"{kind}/{name}",)
            both = tuple(f"{kind}/{name.format(side)}" for side in ("left", "right"))
            if both[0] != both[1] and both[0] in known:
                return both
    both = (f"face/{action}Left", f"face/{action}Right")
    if both[0] not in known:
        raise ValueError(f"action {action!r} is not in the head asset")
    return both


def spread_actions(recipe: Recipe) -> dict[str, float]:
    """Weights of the asset's targets for a recipe."""
    return {target: weight for action, weight in recipe.items() for target in _sides(action)}


def showing(emotion: Emotion, rng: np.random.Generator | None = None) -> dict[str, float]:
    """Target weights of one showing of an emotion at full strength; `rng` varies it from showing to showing."""
    weights: dict[str, float] = {}
    for action, weight in RECIPES[emotion].items():
        shared = 1.0 if rng is None else 1 + STRENGTH_SPREAD * float(rng.standard_normal())
        for target in _sides(action):
            side = 0.0 if rng is None else SIDE_SPREAD * float(rng.standard_normal())
            weights[target] = weight * max(shared + side, 0.0)
    return weights


def crease_depths(weights: dict[str, float]) -> tuple[float, float, float, float]:
    """How deeply the creases `paint.CREASES` are drawn, each 0 to 1."""

    def mean(action: str) -> float:
        return sum(weights.get(target, 0.0) for target in _sides(action)) / len(_sides(action))

    frown = mean("browDown") + 0.4 * mean("browInnerUp") + mean("eyebrows-down")
    forehead = 0.7 * mean("browInnerUp") + 0.6 * mean("browOuterUp")
    nose = mean("noseSneer") + 0.4 * mean("mouthUpperUp")
    smile = mean("mouthSmile") + 0.3 * mean("cheekSquint")
    depths = (min(max(depth, 0.0), 1.2) for depth in (frown, forehead, nose, smile))
    return next(depths), next(depths), next(depths), next(depths)
