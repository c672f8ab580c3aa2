"""Membership inference: was this clip (or person) among those that the emotion model was trained on?

Shadow models, trained by the attacker on known subsets, show what membership looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.metrics import Trials
from moretta.shared.core.array_types import Array, Bool, Float64, Int64, Integers

Predict = Callable[[Array], Array]
"""Maps features [n, ...] to class probabilities [n, classes]."""
Train = Callable[[Array, Int64, int], Predict]
"""Trains on features [n, ...], labels [n] and a seed, as the attacked model was trained."""
FLOOR = 1e-12
FPRS = (0.001, 0.01)
RMIA_GAMMA, RMIA_OFFLINE_A = 2.0, 0.3
MIN_DEVIATION = 1e-3
FEW_MODELS = 32
"""Below so many models on a side one variance serves all examples: each alone is estimated too badly (Carlini 2022)."""


@dataclass(frozen=True)
class Shadows:
    """The output of shadow models on every example.

    `inside`: bool [models, n], whether the example was in the model's training set.
    `probability`: float64 [models, n], its probability of the true label.
    """

    inside: Bool
    probability: Float64


def train_shadows(
    train: Train,
    x: Array,
    y: Int64,
    *,
    models: int = 16,
    seed: int = 0,
    group: Integers | None = None,
) -> Shadows:
    """Train shadow models, each on half of the examples, and query them on all.

    Models, an even number, come in pairs on complementary halves, so every example is inside exactly half of them
    (Carlini et al., IEEE S&P 2022). `train` is the training routine that is attacked; examples of one `group` [n] (a
    speaker) are in or out together, for membership of people.
    """
    if models < 2 or models % 2:
        raise ValueError(f"{models} shadow models; an even number of at least 2 is needed")
    inside = membership_halves(len(y), models, seed=seed, group=group)
    seeds = np.random.default_rng(seed + 1).integers(0, 2**31, models)
    answers = [train(x[rows], y[rows], int(s))(x) for rows, s in zip(inside, seeds, strict=True)]
    return Shadows(inside, np.stack([true_label_probability(answer, y) for answer in answers]))


def membership_halves(n: int, models: int, *, seed: int, group: Integers | None = None) -> Bool:
    """bool [models, n]: random halves of the groups in complementary pairs."""
    names, of_example = np.unique(np.arange(n) if group is None else group, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows: list[Bool] = []
    for _ in range(models // 2):
        half = np.zeros(len(names), dtype=np.bool_)
        half[rng.permutation(len(names))[: len(names) // 2]] = True
        rows += [half[of_example], ~half[of_example]]
    return np.stack(rows)


def true_label_probability(probability: Array, y: Int64) -> Float64:
    """float64 [n], the probability of the true label, kept off 0 and 1."""
    chosen = np.asarray(probability, dtype=np.float64)[np.arange(len(y)), y]
    return np.asarray(np.clip(chosen, FLOOR, 1 - FLOOR), dtype=np.float64)


def confidence(probability: Float64) -> Float64:
    """Logit of the probability of the true label, nearly Gaussian over models (Carlini et al., IEEE S&P 2022)."""
    return np.asarray(np.log(probability) - np.log1p(-probability), dtype=np.float64)


def lira_online(probability: Float64, shadows: Shadows) -> Float64:
    """log p(confidence | in) - log p(confidence | out), per-example Gaussians (Carlini et al. 2022, online)."""
    seen, observed = confidence(shadows.probability), confidence(probability)
    inside_mean, inside_deviation = _gaussians(seen, shadows.inside)
    outside_mean, outside_deviation = _gaussians(seen, ~shadows.inside)
    inside_z, outside_z = (observed - inside_mean) / inside_deviation, (observed - outside_mean) / outside_deviation
    return np.asarray((outside_z**2 - inside_z**2) / 2 - np.log(inside_deviation / outside_deviation))


def lira_offline(probability: Float64, shadows: Shadows) -> Float64:
    """How far the confidence lies above the out-models', in standard deviations (the same, offline).

    The paper's 1 - Pr[out > observed] is a monotone function of it, and saturates.
    """
    mean, deviation = _gaussians(confidence(shadows.probability), ~shadows.inside)
    return np.asarray((confidence(probability) - mean) / deviation)


def rmia(probability: Float64, shadows: Shadows) -> Float64:
    """Share of all examples z that x dominates: [p(x | model) / p(x)] / [p(z | model) / p(z)] >= gamma, in [0, 1].

    Offline form (Zarifzadeh, Liu and Shokri, ICML 2024): p(x) from out-models alone,
    p(x) = ((1 + a) p_out + 1 - a) / 2, with gamma = 2 and a = 0.3. Ties of the share are broken by the
    ratio itself, scaled below one count.
    """
    out = ~shadows.inside
    p_out = (shadows.probability * out).sum(axis=0) / out.sum(axis=0)
    ratio = probability / (((1 + RMIA_OFFLINE_A) * p_out + 1 - RMIA_OFFLINE_A) / 2)
    dominated = np.searchsorted(np.sort(ratio), ratio / RMIA_GAMMA, side="right")
    return np.asarray((dominated + 0.5 * ratio / ratio.max()) / len(ratio))


def loss_threshold(probability: Float64, shadows: Shadows) -> Float64:  # noqa: ARG001 - the same shape as the others
    """Log-likelihood of the true label (Yeom et al., CSF 2018): the attacker without shadow models."""
    return np.asarray(np.log(probability))


METHODS: Mapping[str, Callable[[Float64, Shadows], Float64]] = {
    "lira online": lira_online,
    "lira offline": lira_offline,
    "rmia": rmia,
    "loss": loss_threshold,
}


def area_under_roc(trials: Trials) -> float:
    """Chance that a mated score exceeds a non-mated one, ties counting half, in [0, 1]."""
    ties = trials.ties
    below = np.cumsum(ties.nonmated) - ties.nonmated / 2
    return float(ties.mated @ below / (ties.mated.sum() * ties.nonmated.sum()))


def _gaussians(seen: Float64, use: Bool) -> tuple[Float64, Float64]:
    """Mean and deviation [n] of the models in use; the deviation is pooled over examples where models are few."""
    count = use.sum(axis=0)
    mean = (seen * use).sum(axis=0) / count
    squares = ((seen - mean) ** 2 * use).sum(axis=0)
    if count.min() < FEW_MODELS:
        deviation = np.full(len(mean), np.sqrt(squares.sum() / max(1, int((count - 1).sum()))))
    else:
        deviation = np.sqrt(squares / (count - 1))
    return mean, np.maximum(deviation, MIN_DEVIATION)
