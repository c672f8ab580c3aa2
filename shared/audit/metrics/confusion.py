"""Scores of a classifier from confusion counts, with intervals from a bootstrap over speakers.

Clips of one speaker are not independent, so whole speakers are drawn with replacement (Field and Welsh, "Bootstrapping
clustered data", J. R. Stat. Soc. B 69, 2007): an interval over clips would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.intervals import speaker_counts

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float] | None


def confusion_by_speaker(
    truth: Sequence[int] | Counts, predicted: Sequence[int] | Counts, speakers: Sequence[Hashable], *, classes: int
) -> Counts:
    """Count clips by speaker, true class and predicted class.

    Args:
        truth: [n] class indices below `classes`.
        predicted: [n] class indices below `classes`.
        speakers: [n] any hashable.
        classes: number of classes.

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


def accuracy(confusion: npt.ArrayLike) -> Floats:
    """Share of clips on the diagonal. confusion: [..., c, c] counts; returns [...]; NaN where there are no clips."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def recall(confusion: npt.ArrayLike) -> Floats:
    """Recall of each class. confusion: [..., c, c] counts; returns [..., c]; NaN for classes without clips."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def precision(confusion: npt.ArrayLike) -> Floats:
    """Precision of each class. confusion: [..., c, c] counts; returns [..., c]; NaN for classes never predicted."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def f1(confusion: npt.ArrayLike) -> Floats:
    """F1 of each class: 2 TP / (2 TP + FP + FN). Returns [..., c]; NaN for classes neither there nor predicted."""
    counts = np.asarray(confusion, dtype=np.float64)
    diagonal = np.diagonal(counts, axis1=-2, axis2=-1)
    return _divide(2 * diagonal, counts.sum(axis=-1) + counts.sum(axis=-2))


def uar(confusion: npt.ArrayLike) -> Floats:
    """Unweighted average recall over the classes that occur. confusion: [..., c, c] counts; returns [...]."""
    recalls = recall(confusion)  # [..., c]
    present = ~np.isnan(recalls)
    return _divide(np.where(present, recalls, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))


def bootstrap(
    by_speaker: Counts, score: Callable[[npt.ArrayLike], Floats], *, seed: int, draws: int = 1000, level: float = 0.95
) -> Interval:
    """Percentile interval of a score when speakers are drawn with replacement.

    Args:
        by_speaker: [s, c, c] confusion counts of each speaker.
        score: maps [draws, c, c] to [draws].
        seed: of the draws.
        draws: number of bootstrap samples.
        level: share of the draws inside the interval.

    Returns:
        (low, high), or None with fewer than two speakers or no draws: one speaker says nothing about another.
    """
    speakers = len(by_speaker)
    if speakers < 2 or draws < 1:
        return None
    weights = speaker_counts(speakers, draws, seed)  # [draws, s]
    drawn = np.tensordot(weights, by_speaker, axes=1)  # [draws, c, c]
    tail = (1 - level) / 2
    low, high = np.nanquantile(score(drawn), [tail, 1 - tail])
    return float(low), float(high)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)
