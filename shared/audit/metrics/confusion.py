"""Scores of a classifier from confusion counts [..., c, c] (true class, predicted class), with intervals.

Intervals draw whole speakers with replacement: see `intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.intervals import LEVEL, Interval, speaker_counts
from moretta.shared.core.array_types import Float64, Int64

Counts = Int64


def confusion_by_speaker(
    truth: Sequence[int] | Counts, predicted: Sequence[int] | Counts, speakers: Sequence[Hashable], *, classes: int
) -> Counts:
    """Count clips [n] by speaker, true class and predicted class, both below `classes`.

    Returns:
        [s, classes, classes] counts, speakers in order of first appearance.

    >>> confusion_by_speaker([0, 1, 1], [0, 1, 0], ["a", "a", "b"], classes=2).sum(axis=0).tolist()
    [[1, 0], [1, 1]]
    """
    order = {speaker: index for index, speaker in enumerate(dict.fromkeys(speakers))}
    rows = np.array([order[speaker] for speaker in speakers], dtype=np.int64)
    counts = np.zeros((len(order), classes, classes), dtype=np.int64)
    np.add.at(counts, (rows, np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
    return counts


def accuracy(confusion: npt.ArrayLike) -> Float64:
    """Share of clips on the diagonal [...]; NaN where there are no clips."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def recall(confusion: npt.ArrayLike) -> Float64:
    """Recall of each class [..., c]; NaN for classes without clips."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def precision(confusion: npt.ArrayLike) -> Float64:
    """Precision of each class [..., c]; NaN for classes never predicted."""
    return recall(np.swapaxes(np.asarray(confusion, dtype=np.float64), -1, -2))


def f1(confusion: npt.ArrayLike) -> Float64:
    """F1 of each class [..., c]: 2 TP / (2 TP + FP + FN); NaN for classes neither there nor predicted."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(2 * np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1) + counts.sum(axis=-2))


def uar(confusion: npt.ArrayLike) -> Float64:
    """Unweighted average recall [...] over the classes that occur."""
    recalls = recall(confusion)
    present = ~np.isnan(recalls)
    return _divide(np.where(present, recalls, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))


def bootstrap(
    by_speaker: Counts, score: Callable[[npt.ArrayLike], Float64], *, seed: int, draws: int = 1000
) -> Interval | None:
    """Percentile interval of a score, [draws, c, c] to [draws], when speakers are drawn with replacement.

    `by_speaker`: [s, c, c]. None with fewer than two speakers or no draws: one speaker says nothing about another.
    """
    speakers = len(by_speaker)
    if speakers < 2 or draws < 1:
        return None
    drawn = np.tensordot(speaker_counts(speakers, draws, seed), by_speaker, axes=1)  # [draws, c, c]
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(score(drawn), [tail, 1 - tail])
    return Interval(float(low), float(high))


def _divide(numerator: Float64, denominator: Float64) -> Float64:
    missing = np.full(np.shape(denominator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=missing, where=denominator > 0))
