import numpy as np
import pytest

from moretta.server.audit.metrics.distinctiveness import (
    deidentification,
    diagonal_dominance,
    similarity_matrix,
    voice_distinctiveness_gain,
)
from moretta.shared.errors import RunError


def test_similarity_is_the_logistic_of_the_mean_ratio_without_self_comparisons() -> None:
    rng = np.random.default_rng(0)
    speaker = np.array([4, 9, 4, 9, 9])
    llr = rng.normal(size=(5, 5))
    found = similarity_matrix(llr, speaker, speaker, same_clips=True)
    for i, a in enumerate((4, 9)):
        for j, b in enumerate((4, 9)):
            pairs = [llr[k, m] for k in range(5) for m in range(5) if speaker[k] == a and speaker[m] == b and k != m]
            assert found[i, j] == pytest.approx(1 / (1 + np.exp(-np.mean(pairs))))


def test_dominance_is_the_diagonal_against_the_rest() -> None:
    assert diagonal_dominance(np.array([[0.9, 0.2], [0.4, 0.7]])) == pytest.approx(0.8 - 0.3)


def test_unchanged_voices_lose_and_hide_nothing() -> None:
    oo = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert voice_distinctiveness_gain(oo, oo) == 0
    assert deidentification(oo, oo) == 0


def test_a_tenth_of_the_dominance_is_minus_ten_decibel() -> None:
    oo, pp = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.54, 0.46], [0.46, 0.54]])
    assert voice_distinctiveness_gain(oo, pp) == pytest.approx(-10)
    assert deidentification(oo, pp) == pytest.approx(0.9)


def test_constant_voices_hide_everybody() -> None:
    oo, constant = np.array([[0.9, 0.1], [0.1, 0.9]]), np.full((2, 2), 0.5)
    assert voice_distinctiveness_gain(oo, constant) == -np.inf
    assert deidentification(oo, constant) == 1


def test_a_speaker_with_one_clip_is_refused() -> None:
    with pytest.raises(RunError, match="single clip"):
        similarity_matrix(np.zeros((3, 3)), np.array([1, 1, 2]), np.array([1, 1, 2]), same_clips=True)
