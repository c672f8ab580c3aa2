"""The public people whose faces everybody wears: invented, mild in shape, and drawn smoothly."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np

from moretta.shared.core.array_types import Array, UInt8
from moretta.shared.models.head.expression import ACTIONS, action_weights
from moretta.shared.models.head.render import FaceIdentity, Vector, View, Window, draw, make_identity
from moretta.shared.models.head.traits import HAIR_COLOURS, IRIS_COLOURS, SKIN_TONES, HairStyle, draw_traits

PublicPerson = Literal["amber", "cedar", "hazel", "jasper", "onyx", "sienna"]
"""Names of the public people, which say nothing about anybody else."""


class _Look(NamedTuple):
    """Chosen features of a public person; the rest is drawn from the seed."""

    seed: int
    sex: str
    age: int
    skin: int
    """Index in `SKIN_TONES`; the next two are indices likewise."""
    hair: int
    iris: int
    style: HairStyle


_LOOKS: dict[str, _Look] = {
    "amber": _Look(11, "female", 26, skin=0, hair=3, iris=2, style=HairStyle.BOB),
    "cedar": _Look(61, "male", 30, skin=2, hair=0, iris=0, style=HairStyle.SIDE_PART),
    "hazel": _Look(31, "female", 28, skin=1, hair=1, iris=0, style=HairStyle.LONG),
    "jasper": _Look(41, "male", 28, skin=1, hair=2, iris=1, style=HairStyle.SHORT),
    "onyx": _Look(51, "male", 32, skin=4, hair=0, iris=0, style=HairStyle.BUZZ),
    "sienna": _Look(21, "female", 30, skin=3, hair=0, iris=0, style=HairStyle.TIED),
}
_MILD = 0.35
"""How much of the drawn peculiarities of shape is kept. Strong ones look grim, and teeth pierce some chins."""
_CREASES = 0.6
"""How much of the creases is kept: at full depth they look like pencil lines."""
_THICKEST_BROW = 0.05
"""Half thickness in decimetres."""
_WALL = (0.62, 0.64, 0.66)
_LIGHT: Vector = (0.25, 0.5, 1.0)
_SUPERSAMPLE = 2
"""Samples per pixel and axis: without, edges show steps."""
_FACE = (0.5, 0.49, 0.70)
"""The picture's middle (right, down) in widths and heights of a whole frame, and its side in heights."""
_ASPECT = 4 / 3
STRONGEST = 1.2
"""Largest weight of an action; beyond it the mesh folds."""
_WIDEST_GAZE = 0.5


@cache
def public_person(name: PublicPerson) -> FaceIdentity:
    """The head of a public person; raises KeyError for another name."""
    look = _LOOKS[name]
    drawn = draw_traits(look.seed, look.sex, look.age)
    kept = {  # the macro targets make a whole head; weight alone is a peculiarity among them
        target: amount if target.startswith("macro/") and "weight" not in target else _MILD * amount
        for target, amount in drawn.shape.items()
    }
    traits = replace(
        drawn,
        shape=kept,
        skin=SKIN_TONES[look.skin],
        hair=HAIR_COLOURS[look.hair],
        iris=IRIS_COLOURS[look.iris],
        style=look.style,
        hairline=0.02,
        brow=(min(drawn.brow[0], _THICKEST_BROW), *drawn.brow[1:]),
        beard=0.0,
        lines=0.0,
        wall=_WALL,
    )
    head = make_identity(look.seed, traits=traits)
    return replace(head, texture=head.texture._replace(creases=_CREASES * head.texture.creases))


class Portrait:
    """Draws a public person."""

    def __init__(self, side: int, person: PublicPerson) -> None:
        self.side = side
        self._person = public_person(person)
        self._height = round(side / _FACE[2])
        self._width = round(self._height * _ASPECT)
        left = round(self._width * _FACE[0] - side / 2)
        self._window = Window(left, round(self._height * _FACE[1] - side / 2), side, side)

    def __call__(self, values: Array) -> UInt8:
        """The face that one frame of a track describes, [channels] -> uint8 [side, side, 3]."""
        actions, gaze = values[: len(ACTIONS)], np.clip(values[len(ACTIONS) :], -_WIDEST_GAZE, _WIDEST_GAZE)
        return draw(
            self._person,
            action_weights(np.clip(actions, 0, STRONGEST)),
            View(light=_LIGHT, gaze=(float(gaze[0]), float(gaze[1]))),
            width=self._width,
            height=self._height,
            supersample=_SUPERSAMPLE,
            rng=None,
            window=self._window,
        )


assert set(_LOOKS) == set(get_args(PublicPerson))
