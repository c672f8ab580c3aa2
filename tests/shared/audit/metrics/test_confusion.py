from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.report.report_schema import emotion_result
from moretta.shared.core.errors import RunError

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=80)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@settings(max_examples=80, deadline=None)
@given(LABELS)
def test_scores_agree_with_scikit_learn(rows: list[tuple[int, int, int]]) -> None:
    truth, predicted, speakers = map(list, zip(*rows, strict=True))
    counts = confusion.confusion_by_speaker(truth, predicted, speakers, classes=4)
    assert len(counts) == len(set(speakers))
    whole = counts.sum(axis=0)
    np.testing.assert_array_equal(whole, confusion_matrix(truth, predicted, labels=range(4)))
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, labels=range(4), zero_division=np.nan)
    np.testing.assert_allclose(confusion.precision(whole), precision)
    np.testing.assert_allclose(confusion.recall(whole), recall)
    np.testing.assert_allclose(confusion.f1(whole), f1)
    assert confusion.accuracy(whole) == pytest.approx(accuracy_score(truth, predicted))
    assert confusion.uar(whole) == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_interval_is_over_speakers_not_clips() -> None:
    """Half the speakers all right, half all wrong: many clips must not make the interval narrow."""
    counts = np.zeros((10, 2, 2), dtype=np.int64)
    counts[:5] = np.diag([500, 500])
    counts[5:] = 500 - np.diag([500, 500])
    found = confusion.bootstrap(counts, confusion.uar, seed=1)
    assert found is not None
    assert found[0] < 0.3 and found[1] > 0.7
    assert found == confusion.bootstrap(counts, confusion.uar, seed=1)


def test_one_speaker_gives_no_interval() -> None:
    assert confusion.bootstrap(np.ones((1, 2, 2), dtype=np.int64), confusion.uar, seed=1) is None


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        right = generator.binomial(20, 0.6, size=30)
        counts = np.zeros((30, 1, 1), dtype=np.int64)
        counts = np.stack([np.diag([r, 0]) + np.array([[0, 20 - r], [0, 0]]) for r in right])
        low, high = confusion.bootstrap(counts, confusion.accuracy, seed=trial, draws=300) or (1, 0)
        covered += low <= 0.6 <= high
    assert 0.88 <= covered / 150 <= 1.0


def test_three_class_table_uses_only_the_three_scores() -> None:
    scores = np.zeros((3, 6))
    scores[0, [0, 1]] = 0.5, 0.9  # anger, mistaken for disgust: right once disgust cannot be chosen
    scores[1, 3] = 1.0
    scores[2, 4] = 1.0  # neutral: not in the three
    result = emotion_result(scores, [0, 3, 4], ["a", "b", "b"], seed=1, draws=50)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.three_class is not None
    assert (result.three_class.clips, result.three_class.accuracy) == (2, 1.0)
    assert result.three_class.classes == ("ANG", "HAP", "SAD")


def test_one_emotion_only_has_chance_of_one_and_undefined_scores_are_null() -> None:
    scores = np.eye(6)[[3, 3, 1]]
    result = emotion_result(scores, [3, 3, 3], ["a", "a", "b"], seed=1, draws=50)
    assert result.chance == 1.0
    by_name = {score.emotion: score for score in result.per_class}
    assert by_name["ANG"].precision is None and by_name["ANG"].recall is None and by_name["ANG"].f1 is None
    assert by_name["HAP"].recall == pytest.approx(2 / 3)
    assert by_name["DIS"].precision == 0.0


@pytest.mark.parametrize("scores", [np.zeros((0, 6)), np.full((1, 6), np.nan), np.zeros((1, 5))])
def test_scores_that_cannot_be_scored_are_an_error(scores: np.ndarray) -> None:
    with pytest.raises(RunError):
        emotion_result(scores, [0] * len(scores), ["a"] * len(scores), seed=1)
