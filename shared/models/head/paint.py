"""Paints a person's texture: skin, brows, lips, beard, hairline, clothes, eyes, and creases that expressions deepen.

All places are in decimetres of the base mesh: eyes are at x = ±0.31, y = 7.28, the mouth at y = 6.61, the chin at 6.19.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from moretta.shared.models.head.hair import hairline_height
from moretta.shared.models.head.mesh import (
    EYE_REACH,
    EYE_SQUARE,
    HAIR_COLUMNS,
    MOUTH_SQUARE,
    SQUARE,
    STRIP_ROWS,
    TEETH_SQUARE,
    TONGUE_SQUARE,
    WIDTH,
    Floats,
    SkinMap,
    skin_map,
)
from moretta.shared.models.head.traits import Colour, HairStyle, Traits

Plane = Floats
"""One value per texel."""

EYE_X, EYE_Y = 0.31, 7.28
MOUTH_Y = 6.61
LID_ANGLE, LID_HALF_ANGLE, LID_HALF_HEIGHT = 0.29, 0.14, 0.063
"""Middle and half size of the opening between the lids: radians round the head, and decimetres."""
CREASES = ("frown", "forehead", "nose", "smile")
"""Channels of the crease texture, in order."""


class Texture(NamedTuple):
    """A person's atlas."""

    colour: Floats
    """[HEIGHT, WIDTH, 3], red, green, blue, 0 to 1."""
    creases: Floats
    """[HEIGHT, WIDTH, 4], how much each of `CREASES` darkens the skin when fully drawn."""
    gloss: Plane
    """[HEIGHT, WIDTH], share of the highlight that the surface shows."""


def _rise(values: Plane, width: float) -> Plane:
    """Smooth step from 0 to 1 as `values` cross zero, `width` wide."""
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * values / width, -40, 40))), np.float32)


def _stroke(distance: Plane, width: float) -> Plane:
    return np.asarray(np.exp(-((distance / width) ** 2)), np.float32)


def _lay(base: Floats, colour: Colour | Floats, cover: Plane) -> None:
    """Paint `colour` over `base` in place, `cover` saying how densely."""
    base += cover[..., None] * (np.asarray(colour, np.float32) - base)


def _noise(rng: np.random.Generator, grid: tuple[int, int], size: tuple[int, int]) -> Plane:
    """Smooth noise of unit variance on the grid, resized to (rows, columns)."""
    coarse = rng.standard_normal(grid).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


@cache
def _creases() -> Floats:
    """The crease channels, the same for everybody, [SKIN_ROWS, WIDTH, 4]."""
    m = skin_map()
    x, y = np.abs(m.x), m.y
    front = (m.z > 0.9).astype(np.float32)
    between = y - (EYE_Y + 0.2)
    frown = _stroke(x - 0.06 - 0.03 * between, 0.022) * _stroke(between, 0.16)
    frown += 0.55 * _stroke(x, 0.11) * _stroke(between + 0.09, 0.1)
    # The brows' shade on the lids when they are pulled down.
    frown += 0.35 * _stroke(y - EYE_Y - 0.1, 0.07) * _rise(0.5 - x, 0.1)
    forehead, nose = np.zeros_like(x), np.zeros_like(x)
    for lift in (0.42, 0.53, 0.64):
        forehead += _stroke(y - (EYE_Y + lift - 0.12 * x), 0.02) * _rise(0.5 - x, 0.2)
    for drop in (0.02, 0.08, 0.14):
        nose += _stroke(y - (EYE_Y - drop - 0.25 * x), 0.016) * _stroke(x, 0.11)
    fold = x - (0.19 + 0.22 * (6.98 - y))
    nose += 0.9 * _stroke(fold, 0.03) * _rise(7.0 - y, 0.05) * _rise(y - 6.72, 0.06)
    smile = _stroke(x - (0.2 + 0.36 * (6.98 - y)), 0.032) * _rise(6.97 - y, 0.06) * _rise(y - 6.58, 0.06)
    for slope in (-0.45, 0.0, 0.45):
        smile += 0.5 * _stroke(y - EYE_Y - slope * (x - 0.47), 0.014) * _rise(x - 0.49, 0.02) * _rise(0.63 - x, 0.04)
    return np.stack([frown, forehead, nose, smile], axis=-1).astype(np.float32) * front[..., None]


@cache
def _lid_line() -> Plane:
    """Where lashes darken the rim of the eye, [SKIN_ROWS, WIDTH]."""
    m = skin_map()
    across, up = (np.abs(m.theta) - LID_ANGLE) / LID_HALF_ANGLE, (m.y - EYE_Y) / LID_HALF_HEIGHT
    hole = (np.hypot(across, up) < 1.2) & ((m.z < 1.33 - 0.3 * np.maximum(across, 0) ** 2) | ~m.covered)
    inside = hole.astype(np.uint8)
    ring = cv2.dilate(inside, np.ones((3, 3), np.uint8)) - inside
    above = (m.y > EYE_Y - 0.01).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(ring * (0.35 + 0.65 * above), (3, 3), 0.6), np.float32)


def _brows(m: SkinMap, traits: Traits) -> Plane:
    thickness, height, opacity = traits.brow
    x = np.abs(m.x)
    along = x - EYE_X
    middle = EYE_Y + 0.225 + height - 0.5 * (along - 0.05) ** 2 - 0.08 * np.maximum(along, 0)
    taper = thickness * np.clip(1.15 - 1.6 * np.maximum(along, 0), 0.4, 1.15)
    shape = np.exp(-(((m.y - middle) / taper) ** 4)) * _rise(x - 0.1, 0.05) * _rise(0.53 - x, 0.06)
    return (shape * opacity * (m.z > 0.7)).astype(np.float32)


def _beard(m: SkinMap, traits: Traits) -> Plane:
    x, y = np.abs(m.x), m.y
    if traits.beard_full:
        upper = 6.74 + 0.9 * np.maximum(x - 0.3, 0)
        area = _rise(upper - y, 0.08) * _rise(y - 6.05, 0.1) * _rise(m.z - 0.55, 0.15)
    else:
        area = _rise(6.8 - y, 0.05) * _rise(y - 6.12, 0.1) * _rise(0.33 - x, 0.08) * (m.z > 0.9)
    return (area * (1 - m.lips) * (1 - m.ears) * traits.beard).astype(np.float32)


def _scalp(m: SkinMap, traits: Traits) -> Plane:
    line = hairline_height(m.theta, traits.style, traits.hairline)
    cover = _rise(m.y - line, 0.07) * (1 - np.clip(2 * m.ears, 0, 1))
    if traits.style is HairStyle.BALDING:
        cover *= 1 - 0.96 * _rise(m.y - 7.75 + 0.05 * np.cos(m.theta), 0.15)
    return (cover * (0.55 if traits.style is HairStyle.SHAVED else 1.0)).astype(np.float32)


def _skin(m: SkinMap, traits: Traits, rng: np.random.Generator) -> Floats:
    size = m.x.shape
    mottle = 0.008 * _noise(rng, (64, 64), size) + 0.012 * _noise(rng, (10, 10), size)
    skin = np.asarray(traits.skin, np.float32) * (1 + mottle[..., None] * np.array([0.8, 1.0, 1.1], np.float32))
    x = np.abs(m.x)
    flush = 0.5 * _stroke(np.hypot(x - 0.42, (m.y - 6.93) * 1.2), 0.24) + 0.4 * _stroke(np.hypot(x, m.y - 6.95), 0.13)
    skin *= 1 - flush[..., None] * np.array([0.0, 0.10, 0.10], np.float32)
    tired = _stroke(np.hypot((x - 0.3) * 0.7, m.y - 7.14), 0.07) * (0.05 + 0.15 * traits.lines)
    skin *= 1 - tired[..., None]
    skin *= 1 - 0.18 * np.clip(m.eyelids, 0, 1)[..., None]
    shade = _rise(6.25 - m.y, 0.25) * _rise(5.5 - (m.y - 2 * (1.25 - m.z) - 0.6), 0.5)
    skin *= 1 - 0.22 * np.clip(shade, 0, 1)[..., None]
    tint = np.array([0.22, 0.45, 0.42], np.float32) * (0.35 + traits.lip_tint)
    skin *= 1 - m.lips[..., None] * np.clip(tint, 0, 0.6)
    seam = _stroke(m.y - MOUTH_Y, 0.012) * (m.lips > 0.4)
    return np.asarray(skin * (1 - 0.45 * seam[..., None]), np.float32)


def _eye(traits: Traits) -> Floats:
    """The eye's square, [STRIP_ROWS, SQUARE, 3]: white, iris, pupil."""
    y, x = np.mgrid[:STRIP_ROWS, :SQUARE].astype(np.float32)
    reach = SQUARE / 2 - 1
    radius = np.hypot(x - SQUARE / 2, y - STRIP_ROWS / 2) / reach * EYE_REACH
    eye = np.broadcast_to(np.array([0.90, 0.88, 0.86], np.float32), (*x.shape, 3)).copy()
    eye *= 1 - 0.25 * _rise(radius - 0.75, 0.3)[..., None]
    _lay(eye, tuple(0.35 * c for c in traits.iris), _rise(0.47 - radius, 0.05))  # type: ignore[arg-type]
    _lay(eye, traits.iris, _rise(0.41 - radius, 0.05))
    _lay(eye, (0.03, 0.03, 0.03), _rise(0.2 - radius, 0.04))
    return eye


def _strip(traits: Traits, rng: np.random.Generator) -> Floats:
    """Hair, eyes, teeth, tongue and mouth, [STRIP_ROWS, WIDTH, 3]."""
    strip = np.zeros((STRIP_ROWS, WIDTH, 3), np.float32)
    strands = 0.16 * _noise(rng, (3, 60), (STRIP_ROWS, HAIR_COLUMNS))
    strip[:, :HAIR_COLUMNS] = np.asarray(traits.hair, np.float32) * (1.08 + strands[..., None])
    squares = ((TEETH_SQUARE, (0.86, 0.83, 0.76)), (TONGUE_SQUARE, (0.50, 0.25, 0.25)))
    for start, colour in (*squares, (MOUTH_SQUARE, (0.20, 0.07, 0.07))):
        strip[:, start : start + SQUARE] = colour
    strip[:, EYE_SQUARE : EYE_SQUARE + SQUARE] = _eye(traits)
    return strip


def paint(traits: Traits, seed: int) -> Texture:
    """Paint the atlas of one person."""
    rng = np.random.default_rng([seed, 0x9A17])
    m = skin_map()
    skin = _skin(m, traits, rng)
    creases = _creases() * np.float32(0.22 + 0.3 * traits.lines)
    skin *= 1 - traits.lines * 0.22 * np.clip(creases @ np.array([0.5, 1.0, 0.2, 1.0], np.float32), 0, 1)[..., None]
    _lay(skin, (0.07, 0.05, 0.05), np.clip(_lid_line() * (0.9 if traits.sex == "female" else 0.6), 0, 1))
    cover = np.maximum(_scalp(m, traits), 0)
    rough = 1 + 0.12 * _noise(rng, (100, 60), skin.shape[:2])
    hair = np.asarray(traits.hair, np.float32) * rough[..., None]
    beard, brows = _beard(m, traits), _brows(m, traits)
    _lay(skin, 0.75 * hair + 0.25 * skin, beard)
    _lay(skin, 0.8 * hair, brows)
    _lay(skin, hair, cover)
    edge = traits.neckline + (5.9 - traits.neckline) * np.sin(np.clip(np.abs(m.theta), 0, np.pi / 2)) ** 2
    clothes = _rise(edge - m.y, 0.03)
    _lay(skin, traits.clothes, clothes)
    skin *= 1 - 0.3 * _stroke(clothes - 0.5, 0.35)[..., None]
    matte = np.maximum.reduce([cover, clothes, beard, brows])
    gloss = np.concatenate([1 - matte, np.full((STRIP_ROWS, WIDTH), 0.5, np.float32)])
    colour = np.concatenate([skin, _strip(traits, rng)])
    bare = creases * (1 - matte)[..., None]
    empty = np.zeros((STRIP_ROWS, WIDTH, len(CREASES)), np.float32)
    return Texture(np.clip(colour, 0, 1).astype(np.float32), np.concatenate([bare, empty]), gloss.astype(np.float32))
