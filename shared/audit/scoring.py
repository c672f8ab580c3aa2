"""From a trained attacker to scores: rankings of enrolled speakers, and scored comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.audit.metrics.identification import Ranking
from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.metrics.verification import affine_calibration
from moretta.shared.core.array_types import Float32, Float64, Int64, unit_rows

COHORT = 300
"""Clips of the attacker's own training speakers that scores are normalized by."""
NEAREST = 100
"""Number of the most similar ones of these, which adaptive normalization uses."""
_DECIMALS = 6  # cosines of equal vectors differ in the seventh digit, and must tie
_MIN_DEVIATION = 1e-3
CLAIMS = 10
"""False claims scored for each trial of an identifier."""


def unit_length(vectors: npt.NDArray[np.floating]) -> Float64:
    """Rows [n, d] of length 1.

    Raises:
        NotConvergedError: a value is not finite.
    """
    exact = np.asarray(vectors, np.float64)
    if exact.ndim != 2 or not np.isfinite(exact).all():
        raise NotConvergedError(f"embeddings of shape {exact.shape}, not all finite", expected="finite [n, d]")
    return unit_rows(exact)


def cosines(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> Float64:
    """float64 [n, m], rounded so that equal vectors tie."""
    return np.asarray(np.round(unit_length(left) @ unit_length(right).T, _DECIMALS))


def paired_cosines(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> Float64:
    """float64 [n], row by row."""
    return np.asarray(np.round(np.sum(unit_length(left) * unit_length(right), axis=1), _DECIMALS))


def normalized(scores: Float64, cohort: Float32, enrol: Float32, trial: Float32, pairs: Int64) -> Float64:
    """Scores [n] of `pairs` [n, 2], rows of `enrol` and `trial`, on the scale of the cohort [clips, d].

    This is adaptive symmetric normalization (Matejka et al., Interspeech 2017, section 2) by the attacker's own
    training speakers. It brings the scores of two models, trained on two halves of the speakers, to one scale. It also
    sharpens both.
    """
    result = np.zeros(len(scores))
    for side, rows in ((enrol, pairs[:, 0]), (trial, pairs[:, 1])):
        nearest = np.sort(cosines(side, cohort), axis=1)[:, -NEAREST:]  # [clips, nearest]
        mean, deviation = nearest.mean(axis=1), np.maximum(nearest.std(axis=1), _MIN_DEVIATION)
        result += (scores - mean[rows]) / deviation[rows] / 2
    return result


def ranking_by_centroids(enrol: Float32, enrol_speaker: Int64, trial: Float32, trial_speaker: Int64) -> Ranking:
    """Every trial against the mean of each speaker's enrolment embeddings, by cosine."""
    gallery = np.unique(enrol_speaker)
    unit = unit_length(enrol)
    centroids = np.stack([unit[enrol_speaker == speaker].mean(axis=0) for speaker in gallery])
    return Ranking(cosines(trial, centroids), gallery, trial_speaker)


def ranking_of_posteriors(
    scores: Float32, columns: Sequence[str], numbers: Mapping[str, int], trial_speaker: Int64
) -> Ranking:
    """An identifier's log-posteriors as log-odds, which are comparable between trials."""
    log, shape = np.asarray(scores, np.float64), [len(trial_speaker), len(columns)]
    if log.shape != tuple(shape) or not np.isfinite(log).all():
        raise NotConvergedError(f"scores of shape {log.shape}, not all finite", expected=f"finite {shape}")
    posterior = np.exp(log - log.max(axis=1, keepdims=True))
    posterior = np.clip(posterior / posterior.sum(axis=1, keepdims=True), 1e-12, 1 - 1e-12)
    odds = np.round(np.log(posterior) - np.log1p(-posterior), _DECIMALS)
    return Ranking(odds, np.array([numbers[s] for s in columns], np.int64), trial_speaker)


def ranking_of_pools(
    pool_scores: Callable[[Int64], Float32],
    columns: Sequence[str],
    numbers: Mapping[str, int],
    trial_speaker: Int64,
) -> Ranking:
    """A ranking by an attacker of pools: single trials score everybody alike."""

    def odds(pools: Int64) -> Float64:
        return ranking_of_posteriors(pool_scores(pools), columns, numbers, trial_speaker[pools[:, 0]]).scores

    gallery = np.array([numbers[s] for s in columns], np.int64)
    return Ranking(np.zeros((len(trial_speaker), len(gallery))), gallery, trial_speaker, odds)


def claims(ranking: Ranking, *, seed: int) -> Trials | None:
    """Verification from identification: each trial claims its own speaker and, falsely, some of the others."""
    count, enrolled = ranking.scores.shape
    if enrolled < 2:
        return None
    others = min(CLAIMS, enrolled - 1)
    # The n-th best of random keys without the truth: distinct others, drawn for all trials at once.
    keys = np.random.default_rng([seed, count]).random((count, enrolled))
    keys[np.arange(count), ranking.truth] = -1.0
    columns = np.argsort(keys, axis=1)[:, : others + 1]  # [trials, 1 + others], the truth first
    scores = np.take_along_axis(ranking.scores, columns, axis=1)
    return Trials(scores.ravel(), ranking.gallery[columns].ravel(), np.repeat(ranking.speaker, others + 1))


def calibrated(trials: Trials, half_of: Mapping[int, int]) -> Trials | None:
    """Scores as log-likelihood ratios: one half of the speakers by a map fitted on the other half's trials.

    The attacker who knows one half is the one who attacks the other. None where a half has no trials of both classes.
    """
    known = np.array(sorted(half_of.items()), np.int64)  # [speakers, 2]
    half, enrol_half = (
        known[np.searchsorted(known[:, 0], side), 1] for side in (trials.trial_speaker, trials.enrol_speaker)
    )
    scores = np.empty(len(trials))
    for mine, other in ((0, 1), (1, 0)):
        others = trials.subset((half == other) & (enrol_half == other))
        if others is None:
            return None
        scores[half == mine] = affine_calibration(others)(trials.scores[half == mine])
    return Trials(scores, trials.enrol_speaker, trials.trial_speaker)
