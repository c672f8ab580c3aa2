"""How much clips of a speaker resemble each other more than those of others (Noe et al., Interspeech 2020)."""

from __future__ import annotations

import numpy as np

from moretta.shared.core.array_types import Float64, Integers
from moretta.shared.core.errors import RunError

LEAST_GAIN_DECIBEL = -60.0
"""Voices that are all alike would have a gain of minus infinity: a millionth of the dominance is called the same."""


def similarity_matrix(llr: Float64, row_speaker: Integers, column_speaker: Integers) -> Float64:
    """Voice similarity of every two speakers, in (0, 1): the logistic of the mean log-likelihood ratio of their clips.

    `llr`: float64 [n, m], natural log-likelihood ratios of clips of the row speakers [n] against other clips of the
    same speakers [m]. Returns float64 [speakers, speakers], by ascending speaker.

    Raises:
        RunError: the two sides have different speakers.
    """
    from scipy.special import expit

    speakers = np.unique(row_speaker)
    if not np.array_equal(speakers, np.unique(column_speaker)):
        raise RunError("similarity of two different sets of speakers", expected="the same speakers on both sides")
    rows = (row_speaker[None] == speakers[:, None]).astype(np.float64)  # [speakers, n]
    columns = (column_speaker[None] == speakers[:, None]).astype(np.float64)
    pairs = rows.sum(axis=1)[:, None] * columns.sum(axis=1)
    return np.asarray(expit(rows @ llr @ columns.T / pairs), dtype=np.float64)


def diagonal_dominance(similarity: Float64, draws: Integers | None = None) -> float:
    """|mean of the diagonal - mean off it| of a square matrix, in [0, 1]: how much speakers resemble themselves.

    `draws`: int [speakers], how often a resample has drawn each; two copies of one speaker make no pair. None: once.

    Raises:
        RunError: not square, or fewer than two speakers.
    """
    n = len(similarity)
    weight = np.ones(n) if draws is None else np.asarray(draws, np.float64)
    if similarity.shape != (n, n) or (weight > 0).sum() < 2:
        raise RunError(f"a similarity matrix of shape {similarity.shape}", expected="square, of two speakers or more")
    both = np.outer(weight, weight)
    np.fill_diagonal(both, 0)
    own = float(weight @ np.diagonal(similarity) / weight.sum())
    return abs(own - float((both * similarity).sum() / both.sum()))


def gain_decibel(share: float) -> float:
    """10 log10 of a ratio of diagonal dominances, at least `LEAST_GAIN_DECIBEL`."""
    return max(LEAST_GAIN_DECIBEL, float(10 * np.log10(share))) if share > 0 else LEAST_GAIN_DECIBEL
