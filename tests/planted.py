"""Toys with a known answer: rows that hold one bit of sex and one of emotion, each along one direction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import PublicRows

BIT = 1.5
"""Of noise with deviation 0.5: either bit is read in more than 99 of 100 rows."""


def planted(count: int, seed: int, width: int = 10) -> tuple[npt.NDArray[np.float32], ...]:
    """Values [count, width], sex and emotion [count], independent of each other."""
    drawn = np.random.default_rng(seed)
    sex, emotion = drawn.integers(0, 2, count), drawn.integers(0, 2, count)
    values = 0.5 * drawn.normal(size=(count, width))
    values[:, 0] += BIT * (2 * sex - 1)
    values[:, 1] += BIT * (2 * emotion - 1)
    return values.astype(np.float32), sex, emotion


def planted_people(
    people: int = 18, each: int = 24, *, seed: int = 1, emotions: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
) -> PublicRows:
    """Public speech, half of women: 95 mixtures of one bit of sex, one of each emotion, and four of neither."""
    drawn = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    emotion = np.array(emotions)[np.arange(people * each) % len(emotions)]
    sources = 0.4 * drawn.normal(size=(people * each, 11))
    sources[:, 0] += BIT * (2 * (person % 2) - 1)
    sources[np.arange(people * each), 1 + emotion] += 2 * BIT
    mixed = sources @ np.random.default_rng(0).normal(size=(11, len(MEASUREMENTS)))
    sex = np.array(["female", "male"])[person % 2]
    values = mixed + 0.2 * drawn.normal(size=mixed.shape)
    return PublicRows(values, person.astype(np.str_), emotion.astype(np.int64), sex)
