"""Whether a model is right as often as it is sure, from counts of clips alone; and temperatures that make it so.

Confidences are sorted into 15 bins of equal width, as Guo et al. do ("On calibration of modern neural networks", ICML
2017). Beside clips and right clips a bin has the sum of its confidences, in whole thousandths: its mean confidence is
exact to half of one. Whoever has a site's releases and the models can compute as much.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Float64, Int64
from moretta.shared.core.errors import ReleaseError

BINS = 15
THOUSANDTHS = 1000
Counts = Int64
"""[15, 3]: clips, right ones among them, sum of their confidences in thousandths."""
Probabilities = Float64
_LEAST = 1e-300
_LOG_BOUNDS = (-3.0, 3.0)
"""Bounds of the logarithm of a temperature: beyond them a model is sure of everything or of nothing."""
LEAST_TEMPERATURE, LARGEST_TEMPERATURE = map(math.exp, _LOG_BOUNDS)
"""Smallest and largest temperature of `fit_temperature`, about 1/20 and 20."""


def reliability_counts(probabilities: Float64, labels: Int64) -> Counts:
    """Sort clips into bins by the probability of the class they are decided for.

    Args:
        probabilities: [clips, classes], each row adding up to 1.
        labels: [clips] true classes.

    >>> reliability_counts(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])).sum(axis=0).tolist()
    [2, 1, 1700]
    """
    counts = np.zeros((BINS, 3), np.int64)
    if not len(labels):
        return counts
    mils = np.rint(probabilities.max(axis=1).clip(0, 1) * THOUSANDTHS).astype(np.int64)
    right = probabilities.argmax(axis=1) == labels
    np.add.at(counts, _bin(mils), np.stack([np.ones_like(mils), right.astype(np.int64), mils], axis=1))
    return counts


def check_reliability(counts: npt.NDArray[np.generic], *, clips: int, right: int) -> Counts:
    """Received counts, if they agree with each other, with the number of clips and with how many were decided right.
    Raises ReleaseError: another shape or type, a bin whose confidences do not lie in it, or other sums."""
    if counts.shape != (BINS, 3) or counts.dtype.kind != "i":
        raise ReleaseError(f"confidences of shape {list(counts.shape)}", expected=f"whole numbers, {BINS} x 3")
    there, good, sums = (column.astype(np.int64) for column in counts.T)
    low, high = _edges()
    sound = (there >= 0) & (there <= clips) & (good >= 0) & (good <= there)
    sound &= (sums >= 0) & (sums <= THOUSANDTHS * clips) & (low * there <= sums) & (sums <= high * there)
    if not sound.all() or int(there.sum()) != clips or int(good.sum()) != right:
        raise ReleaseError(
            "confidences that do not agree with the confusion counts", expected=f"{clips} clips, {right} of them right"
        )
    return counts.astype(np.int64)


def expected_calibration_error(counts: Counts) -> float | None:
    """Mean distance, over clips, of a bin's confidence from its share of right clips; None without a clip."""
    clips = counts[:, 0]
    if not clips.any():
        return None
    return float(np.abs(counts[:, 1] - counts[:, 2] / THOUSANDTHS).sum() / clips.sum())


def _bin(mils: Counts) -> Counts:
    return np.minimum(mils * BINS // THOUSANDTHS, BINS - 1)


def _edges() -> tuple[Counts, Counts]:
    """Least and largest thousandths of each bin."""
    bins = _bin(np.arange(THOUSANDTHS + 1))
    numbers = np.arange(BINS)
    return np.searchsorted(bins, numbers), np.searchsorted(bins, numbers, side="right") - 1


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """[clips, classes] -> the same over a temperature: log-probabilities are divided by it, and normalized again.

    The most probable class stays the most probable one (Guo et al., section 4.2).
    """
    logs = np.log(np.maximum(probabilities, _LEAST)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: Probabilities, labels: Int64) -> float:
    """The temperature, from 1/20 to 20, at which the labels [clips] are most likely."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: surprise(tempered(probabilities, float(np.exp(log))), labels), bounds=_LOG_BOUNDS, method="bounded"
    )
    return float(np.exp(found.x))


def surprise(probabilities: Probabilities, labels: Int64) -> float:
    """Mean negative logarithm of the probability of the true class, in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST)).mean())
