"""Synthetic people in clips: one who speaks a sentence, and the public person who shows the movements of a track."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moretta.shared.models.head.expression import ACTIONS, action_weights, showing
from moretta.shared.models.head.render import FaceIdentity, View, Window, draw, make_identity, speaking

JAW_REACH = 0.42
"""How far the jaw opens at full loudness."""
ONSET_SECONDS = (0.15, 0.45)
BLINKS_PER_SECOND = 0.25
BLINK_SECONDS = 0.2
POSE_REACH = (0.16, 0.08, 0.05)
"""Standard deviation of a person's resting (yaw, pitch, roll) in a clip, in radians."""
SWAY = (0.045, 0.03, 0.02)
"""Amplitude in radians of slow head motion."""
PUBLIC_PERSON = 1_000_011
"""Seed of the person whose face everybody wears: at rest it shows no emotion, and brows, eyes and lips stand out."""
_LIGHT = (0.25, 0.5, 1.0)
_FACE = (0.5, 0.49, 0.70)
"""The picture's middle (right, down) in widths and heights of a whole frame, and its side in heights."""
_ASPECT = 4 / 3
STRONGEST = 1.2
"""Of an action; beyond it the mesh folds."""
_WIDEST_GAZE = 0.5


def _smooth(rise: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(rise, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped))


def _strength(seconds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Strength of the expression over time: onset, apex, a slight fall at the end."""
    onset = rng.uniform(*ONSET_SECONDS)
    start = rng.uniform(0.35, 0.6)
    fall = rng.uniform(0.0, 0.2) * _smooth((seconds - seconds[-1] + 0.4) / 0.4)
    return np.asarray(start + (1 - start) * _smooth(seconds / onset) - fall)


def _blinks(seconds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    closed = np.zeros_like(seconds)
    for start in rng.uniform(0, seconds[-1] + 1e-9, rng.poisson(BLINKS_PER_SECOND * (seconds[-1] + 0.1))):
        closed = np.maximum(closed, 1 - np.abs(seconds - start) / (BLINK_SECONDS / 2))
    return np.clip(closed, 0, 1)


def render_clip(
    identity: FaceIdentity,
    emotion: str,
    loudness: NDArray[np.floating[Any]],
    *,
    fps: int,
    intensity: float = 1.0,
    seed: int,
    width: int = 160,
    height: int = 120,
    supersample: int = 1,
) -> Iterator[NDArray[np.uint8]]:
    """Yield one RGB frame [height, width, 3] for each value of `loudness`, which opens the jaw (0 to 1).

    Head pose, light, gaze, blinks and the exact showing of the emotion follow from `seed`.
    """
    if not len(loudness):
        return
    rng = np.random.default_rng([seed, 0xC11F])
    seconds = np.arange(len(loudness)) / fps
    strength, blinks = _strength(seconds, rng) * intensity, _blinks(seconds, rng)
    rest = rng.standard_normal(3) * POSE_REACH
    phase, pace = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.25, 0.7, 3)
    light = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.3, 0.8)), 1.0)
    gaze = (float(0.06 * rng.standard_normal() - 0.5 * rest[0]), float(0.05 * rng.standard_normal()))
    weights = showing(emotion, rng)
    for k, loud in enumerate(np.clip(loudness, 0, 1)):
        yaw, pitch, roll = rest + np.array(SWAY) * np.sin(phase + 2 * np.pi * pace * seconds[k])
        pitch += 0.02 * loud
        now = {name: float(strength[k]) * weight for name, weight in weights.items()}
        mixed = speaking(now, JAW_REACH * float(loud), float(blinks[k]))
        view = View((float(yaw), float(pitch), float(roll)), light, gaze)
        yield draw(identity, mixed, view, width=width, height=height, supersample=supersample, rng=rng)


class Portrait:
    """Draws the public person.

    Args:
        side: height and width of the pictures, in pixels.
        person: seed of another person.
    """

    def __init__(self, side: int, person: int = PUBLIC_PERSON) -> None:
        self.side = side
        self._person = make_identity(person)
        self._height = round(side / _FACE[2])
        self._width = round(self._height * _ASPECT)
        left = round(self._width * _FACE[0] - side / 2)
        self._window = Window(left, round(self._height * _FACE[1] - side / 2), side, side)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """The face that one frame of a track describes, [channels] -> uint8 [side, side, 3]."""
        actions, gaze = values[: len(ACTIONS)], np.clip(values[len(ACTIONS) :], -_WIDEST_GAZE, _WIDEST_GAZE)
        view = View(light=_LIGHT, gaze=(float(gaze[0]), float(gaze[1])))
        return draw(
            self._person,
            action_weights(np.clip(actions, 0, STRONGEST)),
            view,
            width=self._width,
            height=self._height,
            supersample=1,
            rng=None,
            window=self._window,
        )
