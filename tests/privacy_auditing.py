"""Empirical lower bounds on epsilon: what an attack that plants canaries proves a mechanism to lose at least.

A claim says "at most"; an audit says "at least". Where the audit's figure lies above the claim, the mechanism is not
what it is said to be: noise too small, a clipping left out, a seed used twice. Where it lies below, nothing is proven.

Jagielski, Ullman and Oprea, NeurIPS 2020, "Auditing Differentially Private Machine Learning"; Nasr et al., USENIX
Security 2023, "Tight Auditing of Differentially Private Machine Learning"; Steinke, Nasr and Jagielski, NeurIPS 2023,
"Privacy Auditing with One (1) Training Run".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moretta.shared.privacy.gaussian import gaussian_epsilon

Scores = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

CONFIDENCE = 0.95
_THRESHOLDS = 200


@dataclass(frozen=True, slots=True)
class CanaryTrials:
    """Scores of an attacker, the higher the surer it is that the canary was there. Trials must not touch each other:
    runs of the mechanism with fresh noise, or canaries in one run whose noise has nothing in common."""

    present: Scores
    """[trials] with the canary."""
    absent: Scores
    """[trials] without it, or with its neighbour in its place."""


def lower_bound(trials: CanaryTrials, *, delta: float = 0.0, confidence: float = CONFIDENCE) -> float:
    """Epsilon that the mechanism loses at least, whatever mechanism it is, with this confidence; 0.0 if none is proven.

    For every attack that decides by a threshold, (epsilon, delta) bounds its true positives by e^epsilon times its
    false ones, plus delta; and the same with absence for presence. The threshold is chosen on one half of the trials
    and tested, by Clopper and Pearson's limits, on the other: tested where it is chosen it would look too strong.
    """
    (learn_in, test_in), (learn_out, test_out) = _halves(trials.present), _halves(trials.absent)
    error = (1 - confidence) / 2
    cuts = np.unique(np.quantile(np.concatenate([learn_in, learn_out]), np.linspace(0, 1, _THRESHOLDS)))
    learned = _by_thresholds(learn_in, learn_out, cuts, delta=delta, error=error)  # [2, cuts]
    direction, best = np.unravel_index(int(learned.argmax()), learned.shape)
    bounds = _by_thresholds(test_in, test_out, cuts[best : best + 1], delta=delta, error=error)
    return max(float(bounds[direction, 0]), 0.0)


def gaussian_lower_bound(
    trials: CanaryTrials, *, delta: float, cut: float | None = None, confidence: float = CONFIDENCE
) -> float:
    """The same for a mechanism that claims to tell no more than a Gaussian does: far tighter, and invalid for any
    other.

    How well two Gaussians can be distinguished depends on their distance alone, so one threshold's errors give mu, and
    mu gives epsilon (Nasr et al. 2023, section 4.2; Dong, Roth and Su 2022).

    Args:
        trials: of the mechanism.
        delta: of the claim.
        cut: the threshold, where it is known beforehand; None spends half of the trials on finding one.
        confidence: of the bound.
    """
    from scipy.stats import norm

    inside, outside = trials.present, trials.absent
    if cut is None:
        (learn_in, inside), (learn_out, outside) = _halves(inside), _halves(outside)
        cut = float(learn_in.mean() + learn_out.mean()) / 2
    error = (1 - confidence) / 2
    false_alarms = _at_most(np.array((outside > cut).sum()), len(outside), error)
    misses = _at_most(np.array((inside <= cut).sum()), len(inside), error)
    mu = float(norm.isf(false_alarms) + norm.isf(misses))
    return gaussian_epsilon(delta, mu) if mu > 0 else 0.0


def one_run_lower_bound(
    scores: Scores,
    included: npt.NDArray[np.bool_],
    *,
    guesses: int,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
) -> float:
    """Epsilon that one single run proves, with many canaries, each of which was in it or not by a fair coin.

    It holds for every mechanism, and canaries may touch each other (Steinke et al. 2023, theorem 5.2): the price is
    that it proves less. The attacker guesses on its surest canaries only.

    Args:
        scores: [canaries], the higher the surer that the canary was included.
        included: [canaries], what the coins said.
        guesses: how many canaries are guessed on, half of them as included.
        delta: of the claim.
        confidence: of the bound.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int(included[order[len(order) - half :]].sum() + (~included[order[:half]]).sum())
    canaries, guesses = len(scores), 2 * half
    low, high = 0.0, 50.0
    if _chance(correct, guesses, canaries, low, delta) > 1 - confidence:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        refuted = _chance(correct, guesses, canaries, middle, delta) <= 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _chance(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How likely at most so many correct guesses are if (epsilon, delta) holds: theorem 5.2 of the paper."""
    from scipy.stats import binom

    share = 1 / (1 + math.exp(-epsilon))
    by_luck = float(binom.sf(correct - 1, guesses, share))
    if delta == 0 or correct == 0:
        return by_luck
    fewer = np.cumsum(binom.pmf(correct - np.arange(1, correct + 1), guesses, share))
    steepest = float((fewer / np.arange(1, correct + 1)).max())
    return min(by_luck + 2 * canaries * delta * steepest, 1.0)


def _by_thresholds(inside: Scores, outside: Scores, cuts: Scores, *, delta: float, error: float) -> Scores:
    """Epsilon that thresholds prove, [2, cuts]: scores above one stand for presence, or those up to it for absence."""
    above_in, above_out = (len(s) - np.searchsorted(np.sort(s), cuts, side="right") for s in (inside, outside))
    shares = [
        (_at_least(above_in, len(inside), error), _at_most(above_out, len(outside), error)),
        (
            _at_least(len(outside) - above_out, len(outside), error),
            _at_most(len(inside) - above_in, len(inside), error),
        ),
    ]
    return np.stack([np.log(np.maximum(right - delta, 1e-300) / wrong) for right, wrong in shares])


def _halves(scores: Scores) -> tuple[Scores, Scores]:
    return scores[::2], scores[1::2]


def _at_least(successes: Counts, trials: int, error: float) -> Scores:
    """Clopper and Pearson's lower limit of shares, each wrong at most in `error` of all cases."""
    from scipy.stats import beta

    limit = beta.ppf(error, successes, trials - successes + 1)
    return np.where(successes == 0, 0.0, limit)


def _at_most(successes: Counts, trials: int, error: float) -> Scores:
    """The upper limits."""
    from scipy.stats import beta

    limit = beta.ppf(1 - error, successes + 1, trials - successes)
    return np.where(successes == trials, 1.0, limit)


def group_privacy(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """Epsilon and delta for `size` units that change together, from those of one (Vadhan 2017, lemma 2.2)."""
    from scipy.special import logsumexp

    if delta == 0:
        return size * epsilon, 0.0
    grown = logsumexp(epsilon * np.arange(size)) + math.log(delta)  # delta times 1 + e^epsilon + e^(2 epsilon) + ...
    return size * epsilon, min(math.exp(min(grown, 0.0)), 1.0)
