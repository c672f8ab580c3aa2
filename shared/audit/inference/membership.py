"""Membership inference: was this clip (or person) among those that the emotion model was trained on?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.inference.shadows import Bools, Floats, Shadows
from moretta.shared.audit.metrics.binomial import exact_interval
from moretta.shared.audit.metrics.bootstrap import Interval
from moretta.shared.audit.metrics.rates import resolution_note, tpr_at_fpr
from moretta.shared.audit.metrics.trials import Trials

FPRS = (0.001, 0.01)
RMIA_GAMMA, RMIA_OFFLINE_A = 2.0, 0.3
MIN_DEVIATION = 1e-3
FEW_MODELS = 32
"""Below so many models on a side one variance serves all examples: each alone is estimated too badly (Carlini 2022)."""


@dataclass(frozen=True)
class RateAt:
    """True-positive rate at a false-positive rate, or the note why there is none.

    `interval` is exact for the members at the threshold found; the threshold itself comes from few non-members, which
    `p_value` takes into account: the chance of so high a rate where members look like others.
    """

    fpr: float
    tpr: float | None
    interval: Interval | None
    p_value: float | None
    note: str | None


@dataclass(frozen=True)
class Membership:
    """How well one method tells members from non-members. `auc` is 0.5 by chance, `rates` their `fpr`."""

    method: str
    auc: float
    auc_interval: Interval
    rates: tuple[RateAt, ...]
    members: int
    nonmembers: int

    @property
    def leaks(self) -> bool:
        """The interval of the AUC lies above chance, or a true-positive rate would be so high once in 100 times."""
        return self.auc_interval.low > 0.5 or any(r.p_value is not None and r.p_value < 0.01 for r in self.rates)


def attack_membership(probability: Floats, member: Bools, shadows: Shadows, *, level: float = 0.95) -> list[Membership]:
    """Every method against one model.

    Args:
        probability: float64 [n], the attacked model's probability of each example's true label.
        member: bool [n], the truth.
        shadows: shadow models' answers on the same examples; none of them may be the attacked model.
        level: of the intervals.
    """
    return [
        evaluate_membership(name, score(probability, shadows), member, level=level) for name, score in METHODS.items()
    ]


def evaluate_membership(method: str, score: Floats, member: Bools, *, level: float = 0.95) -> Membership:
    """Rates of any membership score, float64 [n], larger for members."""
    trials = Trials.of_speakers(score, np.zeros(len(score)), np.where(member, 0, 1))
    members, nonmembers = int(member.sum()), int((~member).sum())
    auc = area_under_roc(trials)
    return Membership(
        method=method,
        auc=auc,
        auc_interval=_auc_interval(auc, members, nonmembers, level),
        rates=tuple(_rate_at(trials, fpr, members, level) for fpr in FPRS),
        members=members,
        nonmembers=nonmembers,
    )


def confidence(probability: Floats) -> Floats:
    """Logit of the probability of the true label, nearly Gaussian over models (Carlini et al., IEEE S&P 2022)."""
    return np.asarray(np.log(probability) - np.log1p(-probability), dtype=np.float64)


def lira_online(probability: Floats, shadows: Shadows) -> Floats:
    """log p(confidence | in) - log p(confidence | out), per-example Gaussians (Carlini et al. 2022, online)."""
    seen, observed = confidence(shadows.probability), confidence(probability)
    inside_mean, inside_deviation = _gaussians(seen, shadows.inside)
    outside_mean, outside_deviation = _gaussians(seen, ~shadows.inside)
    inside_z, outside_z = (observed - inside_mean) / inside_deviation, (observed - outside_mean) / outside_deviation
    return np.asarray((outside_z**2 - inside_z**2) / 2 - np.log(inside_deviation / outside_deviation))


def lira_offline(probability: Floats, shadows: Shadows) -> Floats:
    """How far the confidence lies above the out-models', in standard deviations (the same, offline).

    The paper's 1 - Pr[out > observed] is a monotone function of it, and saturates.
    """
    mean, deviation = _gaussians(confidence(shadows.probability), ~shadows.inside)
    return np.asarray((confidence(probability) - mean) / deviation)


def rmia(probability: Floats, shadows: Shadows) -> Floats:
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


def loss_threshold(probability: Floats, shadows: Shadows) -> Floats:  # noqa: ARG001 - the same shape as the others
    """Log-likelihood of the true label (Yeom et al., CSF 2018): the attacker without shadow models."""
    return np.asarray(np.log(probability))


METHODS: Mapping[str, Callable[[Floats, Shadows], Floats]] = {
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


def _gaussians(seen: Floats, use: Bools) -> tuple[Floats, Floats]:
    """Mean and deviation [n] of the models in use; the deviation is pooled over examples where models are few."""
    count = use.sum(axis=0)
    mean = (seen * use).sum(axis=0) / count
    squares = ((seen - mean) ** 2 * use).sum(axis=0)
    if count.min() < FEW_MODELS:
        deviation = np.full(len(mean), np.sqrt(squares.sum() / max(1, int((count - 1).sum()))))
    else:
        deviation = np.sqrt(squares / (count - 1))
    return mean, np.maximum(deviation, MIN_DEVIATION)


def _rate_at(trials: Trials, fpr: float, members: int, level: float) -> RateAt:
    tpr = tpr_at_fpr(trials, fpr)
    if tpr is None:
        return RateAt(fpr, None, None, None, resolution_note(trials, fpr))
    accepted = round(tpr * members)
    p_value = _chance_of_rate(accepted, members, len(trials) - members, fpr)
    return RateAt(fpr, tpr, exact_interval(accepted, members, level=level), p_value, None)


def _chance_of_rate(accepted: int, members: int, nonmembers: int, fpr: float) -> float:
    """Chance that `accepted` members or more precede the first non-member that may not be accepted, if all are alike.

    That is so exactly if the first `accepted + allowed` of all examples hold at least `accepted` members.
    """
    from scipy.stats import hypergeom

    allowed = math.floor(fpr * nonmembers + 1e-9)
    drawn = min(accepted + allowed, members + nonmembers)
    return float(hypergeom.sf(accepted - 1, members + nonmembers, members, drawn))


def _auc_interval(auc: float, members: int, nonmembers: int, level: float) -> Interval:
    """Hanley and McNeil's normal interval (Radiology, 1982)."""
    from scipy.stats import norm

    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (members - 1) * (q1 - auc**2) + (nonmembers - 1) * (q2 - auc**2)
    half = float(norm.ppf((1 + level) / 2)) * float(np.sqrt(max(variance, 0) / (members * nonmembers)))
    return Interval(max(0.0, auc - half), min(1.0, auc + half), level, resamples=0)
