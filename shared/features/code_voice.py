"""Sequences of codes made audible by one public voice, the same for all.

How the voice's delivery follows a code is learnt on public speech. Nothing but the codes goes in, so their sound tells
no more than they do; of words it has none, as they have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.errors import StudyError
from moretta.shared.features.delivery import MEASUREMENTS
from moretta.shared.features.mfcc import SAMPLE_RATE, Audio
from moretta.shared.features.public_arrays import are_finite, taken
from moretta.shared.features.speaker_code import CODE_LIMIT, PersonScale, PublicRows, SpeakerCode
from moretta.shared.features.spoken_steps import HOP_OF_STEPS, STEP_SAMPLES

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Control(NamedTuple):
    """A measurement that the voice follows, in the units of `delivery`."""

    name: str
    home: float
    """Of the public voice at a code of zeros."""
    low: float
    high: float
    """What the voice can do, whatever codes say."""


_COLOUR = (-2.1, -2.4, -2.1, -1.4, -0.7, -0.3, 1.2, 7.4)
"""What the public voice's bands have more than its tract gives them: then it is about as bright as people are."""
CONTROLS: tuple[Control, ...] = (
    Control("pitch median", np.log2(150.0), np.log2(75.0), np.log2(420.0)),
    Control("pitch slope", 0.0, -1.0, 1.0),
    Control("pitch deviation", 0.16, 0.0, 0.5),
    Control("pitch unsteadiness", 0.012, 0.0, 0.05),
    Control("level mean", 2 * np.log(0.03), 2 * np.log(0.005), 2 * np.log(0.12)),
    Control("level deviation", 1.1, 0.2, 2.0),
    Control("clarity mean", 0.88, 0.45, 0.98),
    Control("peaks a second", 4.0, 1.5, 9.0),
    *(Control(f"band {number} mean", home, home - 3, home + 3) for number, home in enumerate(_COLOUR, start=1)),
)
_HOME, _LOW, _HIGH = np.array([control[1:] for control in CONTROLS]).T
_COLUMNS = [MEASUREMENTS.index(control.name) for control in CONTROLS]
_ARRAY = "voice/speaker/delivery"
_LARGEST_WEIGHT = 100.0
_RIDGE_ROWS = 10.0
"""Rows of public speech that count as much as that codes tell nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class CodeVoice:
    """From a sequence of codes to sound."""

    weights: Matrix
    """[d, len(CONTROLS)]: how far a measurement moves with each value of a code."""

    def deliveries(self, codes: npt.NDArray[Any]) -> Floats:
        """What the voice is asked for: [steps, d] -> [steps, len(CONTROLS)], in the units of `delivery`."""
        bounded = np.clip(np.asarray(codes, np.float64), -CODE_LIMIT, CODE_LIMIT)
        return np.asarray(np.clip(_HOME + bounded @ self.weights.astype(np.float64), _LOW, _HIGH))

    def __call__(self, codes: npt.NDArray[Any]) -> Audio:
        """float32 [8000 (steps + 1)] at 16 kHz in [-1, 1], of codes [steps, d]; always the same of the same codes."""
        from moretta.shared.features.murmur import Manner, murmur

        tracks = _Overlapped.of(len(codes))
        pitch, slope, *others = self.deliveries(codes).T
        liveliness, roughness, level, stress, clarity, syllables, *colour = map(tracks, others)
        return murmur(
            Manner(
                pitch=tracks(pitch, slope),
                liveliness=liveliness,
                roughness=roughness,
                level=level,
                stress=stress,
                syllables=syllables,
                breath=(1 - clarity) / clarity,
                colour=np.stack(colour, axis=1),
            )
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        return {_ARRAY: self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], size: int) -> Self:
        """Check and take what the coordinator sent, for codes of `size` values.

        Raises:
            StudyError: it is missing, of another shape, or holds values that cannot be.
        """
        (found,) = taken(arrays, _ARRAY)
        expected = (size, len(CONTROLS))
        if found.shape != expected or not are_finite(found) or np.abs(found).max() > _LARGEST_WEIGHT:
            raise StudyError(
                f"a public voice of weights {list(found.shape)}",
                expected=f"finite {list(expected)} within +- {_LARGEST_WEIGHT:g}",
            )
        return cls(found)


def learn_code_voice(rows: PublicRows, code: SpeakerCode) -> CodeVoice:
    """Ridge regression from the codes of public people to how they moved from their own usual delivery.

    Args:
        rows: of steps.
        code: what is released.
    """
    codes, moved = [], []
    for mine in rows.groups():
        scale = PersonScale.of(rows.values[mine], np.ones(len(mine)), code)
        codes.append(scale(rows.values[mine]))
        moved.append(scale.ranks(rows.values[mine])[:, _COLUMNS] * code.spread[_COLUMNS])
    known, told = np.concatenate(codes), np.concatenate(moved)
    weights = np.linalg.solve(known.T @ known + _RIDGE_ROWS * np.eye(code.size), known.T @ told)
    return CodeVoice(weights.astype(np.float32))


def steps_of(sound: npt.NDArray[Any]) -> int:
    """Of how many codes a sound was made."""
    return max(1, (len(sound) - STEP_SAMPLES) // HOP_OF_STEPS + 1)


@dataclass(frozen=True, slots=True)
class _Overlapped:
    """Values of steps as tracks: each counts over its own second, most in its middle."""

    shares: Floats
    """[frames, steps]"""
    """Which add up to 1 over the steps."""
    seconds: Floats
    """[frames, steps] from the middle of each step."""

    @classmethod
    def of(cls, steps: int) -> Self:
        from moretta.shared.features.murmur import FRAMES_PER_SECOND

        length, hop = STEP_SAMPLES / SAMPLE_RATE, HOP_OF_STEPS / SAMPLE_RATE
        frames = round((length + (steps - 1) * hop) * FRAMES_PER_SECOND)
        seconds = (np.arange(frames)[:, None] + 0.5) / FRAMES_PER_SECOND - (length / 2 + np.arange(steps) * hop)
        bells = np.where(np.abs(seconds) < 0.5, np.cos(np.pi * seconds) ** 2, 0.0) + 1e-9 * (np.abs(seconds) < 0.5)
        return cls(bells / bells.sum(axis=1, keepdims=True), seconds)

    def __call__(self, values: Floats, slopes: Floats | float = 0.0) -> Floats:
        """[frames] from what each step says, and from how much it rises in its second."""
        return np.asarray((self.shares * (values + slopes * self.seconds)).sum(axis=1))
