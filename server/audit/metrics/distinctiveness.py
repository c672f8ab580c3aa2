"""Gain of voice distinctiveness and de-identification (Noe et al., Interspeech 2020 and 2022).

Both come from voice similarity matrices: `oo` original against original, `op` original against released, `pp` released
against released, each [speakers, speakers] in one order of speakers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.server.audit.metrics.trials import Floats
from moretta.shared.errors import RunError

Integers = npt.NDArray[np.integer]


def similarity_matrix(llr: Floats, row_speaker: Integers, column_speaker: Integers, *, same_clips: bool) -> Floats:
    """Voice similarity of every two speakers, in (0, 1): the logistic of the mean log-likelihood ratio of their clips.

    Args:
        llr: float64 [n, m], natural log-likelihood ratios of clips on one side against clips on the other.
        row_speaker: int [n].
        column_speaker: int [m], of the same speakers.
        same_clips: rows and columns are the same clips in one order; a clip is then not compared with itself.

    Returns:
        float64 [speakers, speakers], by ascending speaker.

    Raises:
        RunError: the two sides have different speakers, or a speaker has no pair of clips to compare.
    """
    from scipy.special import expit

    speakers = np.unique(row_speaker)
    if not np.array_equal(speakers, np.unique(column_speaker)):
        raise RunError("similarity of two different sets of speakers", expected="the same speakers on both sides")
    rows = (row_speaker[None] == speakers[:, None]).astype(np.float64)  # [speakers, n]
    columns = (column_speaker[None] == speakers[:, None]).astype(np.float64)
    used = np.ones_like(llr)
    if same_clips:
        np.fill_diagonal(used, 0)
    pairs = rows @ used @ columns.T
    if (pairs == 0).any():
        raise RunError("a speaker with a single clip", expected="two clips of every speaker", fix="leave it out")
    return np.asarray(expit(rows @ (llr * used) @ columns.T / pairs), dtype=np.float64)


def diagonal_dominance(similarity: Floats) -> float:
    """|mean of the diagonal - mean off it| of a square matrix, in [0, 1]: how much speakers resemble themselves."""
    n = len(similarity)
    if similarity.shape != (n, n) or n < 2:
        raise RunError(f"a similarity matrix of shape {similarity.shape}", expected="square, of two speakers or more")
    diagonal = float(np.trace(similarity)) / n
    return abs(diagonal - (float(similarity.sum()) - n * diagonal) / (n * (n - 1)))


def voice_distinctiveness_gain(oo: Floats, pp: Floats) -> float:
    """G_VD in decibel: 0 where released voices are as distinct as the originals, -inf where they are all alike.

    10 log10 of the ratio of diagonal dominances. None of these voices need resemble its original: this is a figure of
    utility (can speakers be told apart?) that leaks when clips of one speaker can be linked.
    """
    released, original = diagonal_dominance(pp), diagonal_dominance(oo)
    if original == 0:
        raise RunError("original voices that are not distinct at all", expected="an attacker that tells them apart")
    return float(10 * np.log10(released / original)) if released > 0 else -np.inf


def deidentification(oo: Floats, op: Floats) -> float:
    """DeID, at most 1: 1 where released voices resemble no original more than another, 0 where as much as before."""
    original = diagonal_dominance(oo)
    if original == 0:
        raise RunError("original voices that are not distinct at all", expected="an attacker that tells them apart")
    return 1 - diagonal_dominance(op) / original
