import numpy as np
import pytest

from moretta.shared.audit.metrics import Ranking, Trials
from moretta.shared.core.errors import RunError


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RunError, match="1 of 3 scores are not finite"):
        Trials([0.1, np.nan, 0.3], [1, 1, 2], [1, 2, 2])


@pytest.mark.parametrize("trial", [[1, 2, 3], [2, 3, 1]])
def test_a_list_without_both_classes_is_refused(trial: list[int]) -> None:
    with pytest.raises(RunError, match="at least one of each"):
        Trials([0.1, 0.2, 0.3], [1, 2, 3], trial)


def test_breakdowns_keep_the_comparisons_they_name() -> None:
    trials = Trials([5, 4, 3, 2, 1], [1, 2, 1, 3, 3], [1, 1, 2, 3, 1])
    first = trials.subset(trials.trial_speaker == 1)
    women = trials.of_sex({1: "female", 2: "female", 3: "male"}, "female")
    assert first is not None and women is not None
    assert sorted(first.scores) == [1, 4, 5]
    assert sorted(women.scores) == [3, 4, 5]
    assert trials.subset(trials.trial_speaker == 2) is None
    assert trials.of_sex({3: "male"}, "male") is None


def test_tied_scores_are_counted_together() -> None:
    ties = Trials([2, 1, 2, 1, 2], [1, 1, 1, 2, 1], [1, 1, 2, 1, 1]).ties
    assert ties.scores.tolist() == [1, 2]
    assert ties.mated.tolist() == [1, 2]
    assert ties.nonmated.tolist() == [1, 1]


def test_a_score_matrix_gives_one_verification_trial_a_cell() -> None:
    ranking = Ranking(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([7, 3]), np.array([3, 7, 3]))
    trials = ranking.trials()
    assert trials is not None
    assert sorted(trials.mated_scores) == [2, 3, 6]
    assert ranking.truth.tolist() == [1, 0, 1]


def test_a_trial_of_somebody_who_is_not_enrolled_is_refused() -> None:
    with pytest.raises(RunError, match="not enrolled"):
        Ranking(np.zeros((1, 2)), np.array([1, 2]), np.array([3]))
