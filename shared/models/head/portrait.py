"""One person, always from the front and in the same light: only what the face does changes from picture to picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moretta.shared.models.head.channels import ACTIONS, action_weights
from moretta.shared.models.head.head_identity import make_identity
from moretta.shared.models.head.render import View, Window, draw

PUBLIC_PERSON = 1_000_011
"""Seed of the person whose face everybody wears: at rest it shows no emotion, and brows, eyes and lips stand out."""
_LIGHT = (0.25, 0.5, 1.0)
_FACE = (0.5, 0.49, 0.70)
"""The picture's middle (right, down) in widths and heights of a whole frame, and its side in heights."""
_ASPECT = 4 / 3
STRONGEST = 1.2
"""Of an action; beyond it the mesh folds."""
_WIDEST_GAZE = 0.5


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
