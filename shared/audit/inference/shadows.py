"""Shadow models: models trained by the attacker on known subsets, to learn what membership looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Predict = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Maps features [n, ...] to class probabilities [n, classes]."""
Train = Callable[[npt.NDArray[Any], npt.NDArray[np.int64], int], Predict]
"""Trains on features [n, ...], labels [n] and a seed, as the attacked model was trained."""
FLOOR = 1e-12


@dataclass(frozen=True)
class Shadows:
    """What shadow models say of every example.

    `inside`: bool [models, n], whether the example was in the model's training set.
    `probability`: float64 [models, n], its probability of the true label.
    """

    inside: Bools
    probability: Floats


def train_shadows(
    train: Train,
    x: npt.NDArray[Any],
    y: npt.NDArray[np.int64],
    *,
    models: int = 16,
    seed: int = 0,
    group: npt.NDArray[np.integer] | None = None,
) -> Shadows:
    """Train shadow models, each on half of the examples, and query them on all.

    Models come in pairs on complementary halves, so every example is inside exactly half of them (Carlini et al.,
    IEEE S&P 2022).

    Args:
        train: the training routine that is attacked.
        x: features [n, ...].
        y: labels int [n].
        models: how many; even.
        seed: of halves and of training.
        group: int [n]; examples of one group (a speaker) are in or out together, for membership of people.
    """
    if models < 2 or models % 2:
        raise ValueError(f"{models} shadow models; an even number of at least 2 is needed")
    inside = membership_halves(len(y), models, seed=seed, group=group)
    seeds = np.random.default_rng(seed + 1).integers(0, 2**31, models)
    outputs = [train(x[rows], y[rows], int(s))(x) for rows, s in zip(inside, seeds, strict=True)]
    return Shadows(inside, np.stack([true_label_probability(output, y) for output in outputs]))


def membership_halves(
    n: int, models: int, *, seed: int, group: npt.NDArray[np.integer] | None = None
) -> npt.NDArray[np.bool_]:
    """bool [models, n]: random halves of the groups in complementary pairs."""
    names, of_example = np.unique(np.arange(n) if group is None else group, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows: list[Bools] = []
    for _ in range(models // 2):
        half = np.zeros(len(names), dtype=np.bool_)
        half[rng.permutation(len(names))[: len(names) // 2]] = True
        rows += [half[of_example], ~half[of_example]]
    return np.stack(rows)


def true_label_probability(probability: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> Floats:
    """float64 [n], the probability of the true label, kept off 0 and 1."""
    chosen = np.asarray(probability, dtype=np.float64)[np.arange(len(y)), y]
    return np.asarray(np.clip(chosen, FLOOR, 1 - FLOOR), dtype=np.float64)
