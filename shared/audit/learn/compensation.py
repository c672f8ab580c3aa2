"""Vectors in which clips of one speaker lie together: within-class covariance normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Floats

SHRINKAGES = (0.1, 0.3, 0.6)


class WithinClass:
    """Whitening by the covariance within speakers, shrunk towards a sphere (Hatch et al., Interspeech 2006).

    With few speakers a discriminant analysis keeps only as many directions as there are; this keeps them all, and
    only turns down those in which one person varies.
    """

    def __init__(self, shrinkage: float) -> None:
        self._shrinkage = shrinkage

    def fit(self, x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> WithinClass:
        """Learn from vectors [n, d] and speakers [n]."""
        exact = np.asarray(x, np.float64)
        self._mean, deviation = exact.mean(0), exact.std(0)
        # A direction in which the training clips are all equal is not known to be small in others: it is left out.
        flat = deviation <= 1e-6 * max(float(deviation.max()), 1e-12)
        self._scale = np.where(flat, np.inf, deviation)
        scaled = (exact - self._mean) / self._scale
        within = np.concatenate([scaled[y == speaker] - scaled[y == speaker].mean(0) for speaker in np.unique(y)])
        covariance = within.T @ within / len(within)
        sphere = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh((1 - self._shrinkage) * covariance + self._shrinkage * sphere)
        floor = max(float(values.max()) * 1e-6, 1e-12)
        self._whiten = vectors / np.sqrt(np.maximum(values, floor))
        return self

    def transform(self, x: npt.NDArray[Any]) -> Floats:
        """[n, d] to [n, d]."""
        scaled = (np.asarray(x, np.float64) - self._mean) / self._scale
        whitened: Floats = (scaled @ self._whiten).astype(np.float32)
        return whitened


def choose_shrinkage(x: npt.NDArray[Any], y: npt.NDArray[np.int64], *, seed: int) -> float:
    """The shrinkage that best tells apart speakers held out of the fit, all of them the attacker's own."""
    speakers = np.random.default_rng(seed).permutation(np.unique(y))
    if len(speakers) < 4:
        return SHRINKAGES[1]
    errors = dict.fromkeys(SHRINKAGES, 0.0)
    for known in (speakers[0::2], speakers[1::2]):
        inside = np.isin(y, known)
        for shrinkage in SHRINKAGES:
            vectors = WithinClass(shrinkage).fit(x[inside], y[inside]).transform(x[~inside])
            errors[shrinkage] += _equal_error_rate(vectors, y[~inside])
    return min(SHRINKAGES, key=errors.__getitem__)


def _equal_error_rate(vectors: Floats, y: npt.NDArray[np.int64]) -> float:
    from moretta.shared.audit.metrics import Trials
    from moretta.shared.audit.metrics.eer import eer
    from moretta.shared.audit.scoring import cosines

    few = np.linspace(0, len(y) - 1, min(len(y), 400)).round().astype(int)
    left, right = np.triu_indices(len(few), 1)
    scores = cosines(vectors[few], vectors[few])[left, right]
    same = y[few][left] == y[few][right]
    if same.all() or not same.any():
        return 0.5
    return eer(Trials.of_speakers(scores, y[few][left], y[few][right]))
