import numpy as np
import pytest

from moretta.shared.audit.measure import Measurement
from moretta.shared.audit.metrics.distinctiveness import (
    Dominance,
    Similarity,
    deidentification,
    voice_distinctiveness_gain,
)
from moretta.shared.audit.result import Result
from moretta.shared.core.errors import RunError
from moretta.shared.features.voice_similarity import LEAST_GAIN_DECIBEL, diagonal_dominance, similarity_matrix

DISTINCT = np.array([[0.9, 0.1], [0.1, 0.9]])
LESS = np.array([[0.54, 0.46], [0.46, 0.54]])


def gain(oo: np.ndarray, pp: np.ndarray) -> float | None:
    return voice_distinctiveness_gain(Dominance(diagonal_dominance(oo), diagonal_dominance(pp)))


def test_similarity_is_the_logistic_of_the_mean_ratio() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.array([4, 9, 4, 9, 9]), np.array([9, 4, 4])
    llr = rng.normal(size=(5, 3))
    found = similarity_matrix(llr, rows, columns)
    for i, a in enumerate((4, 9)):
        for j, b in enumerate((4, 9)):
            pairs = [llr[k, m] for k in range(5) for m in range(3) if rows[k] == a and columns[m] == b]
            assert found[i, j] == pytest.approx(1 / (1 + np.exp(-np.mean(pairs))))


def test_dominance_is_the_diagonal_against_the_rest() -> None:
    assert diagonal_dominance(np.array([[0.9, 0.2], [0.4, 0.7]])) == pytest.approx(0.8 - 0.3)


def test_a_speaker_drawn_twice_counts_twice_and_makes_no_pair_with_itself() -> None:
    matrix = np.random.default_rng(1).random((3, 3))
    drawn = [0, 0, 2]
    own = np.mean([matrix[i, i] for i in drawn])
    others = np.mean([matrix[i, j] for i in drawn for j in drawn if i != j])
    assert diagonal_dominance(matrix, np.array([2, 0, 1])) == pytest.approx(abs(own - others))


def test_unchanged_voices_lose_and_hide_nothing() -> None:
    assert gain(DISTINCT, DISTINCT) == 0
    assert deidentification(Dominance(0.8, 0.8)) == 0


def test_a_tenth_of_the_dominance_is_minus_ten_decibel() -> None:
    assert gain(DISTINCT, LESS) == pytest.approx(-10)
    assert deidentification(Dominance(0.8, 0.08)) == pytest.approx(0.9)


def test_constant_voices_hide_everybody() -> None:
    assert gain(DISTINCT, np.full((2, 2), 0.5)) == LEAST_GAIN_DECIBEL
    assert deidentification(Dominance(0.8, 0.0)) == 1


def test_originals_that_are_not_distinct_give_no_figure() -> None:
    assert voice_distinctiveness_gain(Dominance(0.0, 0.3)) is None
    assert deidentification(Dominance(0.0, 0.3)) is None


def test_different_speakers_on_two_sides_are_refused() -> None:
    with pytest.raises(RunError, match="two different sets"):
        similarity_matrix(np.zeros((3, 2)), np.array([1, 1, 2]), np.array([1, 1]))


def test_figures_come_by_sex_by_speaker_and_for_the_one_who_leaks_most() -> None:
    oo = np.full((4, 4), 0.2) + np.diag([0.6, 0.6, 0.6, 0.6])
    op = np.full((4, 4), 0.2) + np.diag([0.0, 0.0, 0.0, 0.3])
    similarity = Similarity(oo, op, np.array([3, 5, 8, 9]))
    names, sexes = tuple(f"p{n}" for n in range(10)), {3: "f", 5: "f", 8: "m", 9: "m"}
    about = Result(modality="voice", attacker="a", scenario="ignorant", metric="")
    results = Measurement(names, sexes, {}, {9: 7}, 50).of_similarity(about, "deidentification", similarity)
    found = {result.subset: result for result in results}
    assert found["all"].value == pytest.approx(1 - 0.075 / 0.6)
    assert found["f"].value == pytest.approx(1)
    assert found["m"].value == pytest.approx(1 - 0.15 / 0.6)
    assert (found["worst"].value, found["worst"].clips) == (pytest.approx(0.5), 7)
    assert found["all"].by_speaker["p3"] == pytest.approx(1)
    assert found["all"].by_speaker["p9"] == found["worst"].value
    low, high = found["all"].low, found["all"].high
    assert low is not None and high is not None and low < 0.875 < high
