from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.privacy.accounting import composed_epsilon
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.mechanism import ORDERS
from moretta.shared.privacy.noise import SeededNoise, SystemNoise


def _table(response: RandomizedResponse) -> np.ndarray:
    """[choice in, choice out] probabilities, from the definition."""
    other = math.exp(-response.token_epsilon) * response.keep
    return np.where(np.eye(response.choices, dtype=bool), response.keep, other)


@given(st.integers(2, 500), st.floats(0.01, 12.0))
def test_no_output_is_more_than_exp_epsilon_likelier_for_one_token_than_for_another(
    choices: int, epsilon: float
) -> None:
    table = _table(RandomizedResponse(choices=choices, token_epsilon=epsilon))
    np.testing.assert_allclose(table.sum(axis=1), 1)
    assert np.log(table.max(axis=0) / table.min(axis=0)).max() == pytest.approx(epsilon)


@pytest.mark.parametrize("choices", [2, 5, 64])
def test_responses_come_with_the_probabilities_of_the_table(choices: int) -> None:
    response, trials = RandomizedResponse(choices=choices, token_epsilon=1.5), 200_000
    for token in (0, choices - 1):
        randomized = response.randomize(np.full(trials, token), SystemNoise())
        assert randomized.dtype == np.int32
        seen = np.bincount(randomized, minlength=choices) / trials
        np.testing.assert_allclose(seen, _table(response)[token], atol=5 * np.sqrt(0.25 / trials))


def test_other_tokens_come_equally_often() -> None:
    """A bias among them would be a leak that the keep probability does not show."""
    response, trials = RandomizedResponse(choices=7, token_epsilon=0.01), 350_000
    seen = np.bincount(response.randomize(np.full(trials, 3), SystemNoise()), minlength=7)
    others = np.delete(seen, 3)
    chi_squared = float(((others - others.mean()) ** 2 / others.mean()).sum())
    assert chi_squared < 25  # 5 degrees of freedom: one in seven thousand is beyond


def test_renyi_curve_is_the_sum_over_outcomes_and_tokens() -> None:
    response = RandomizedResponse(choices=9, token_epsilon=1.2, tokens=3)
    p, q = _table(response)[0], _table(response)[1]
    for order in (1.1, 2.0, 16.0, 63.0):
        expected = 3 * np.log((p**order * q ** (1 - order)).sum()) / (order - 1)
        assert response.renyi()[ORDERS.index(order)] == pytest.approx(expected)


def test_composition_lies_above_the_exact_figure_and_below_the_sum() -> None:
    """dp-accounting 0.6.0, `from_randomized_response(k / (e^eps + k - 1), k, value_discretization_interval=1e-4)
    .self_compose(n).get_epsilon_for_delta(1e-5)`: 7.999157 for eps 2, k 16, n 4 and 7.041525 for eps 0.5, k 8, n 30."""
    four = composed_epsilon([RandomizedResponse(choices=16, token_epsilon=2.0)] * 4, delta=1e-5)
    thirty = composed_epsilon([RandomizedResponse(choices=8, token_epsilon=0.5)] * 30, delta=1e-5)
    assert 7.999157 <= four <= 8.0
    assert 7.041525 <= thirty <= 1.1 * 7.041525


def test_two_choices_are_warners_coin() -> None:
    """Warner 1965: with keep probability p the loss is log(p / (1 - p))."""
    assert RandomizedResponse(choices=2, token_epsilon=math.log(3)).keep == pytest.approx(0.75)


def test_tokens_that_are_no_choice_are_refused() -> None:
    with pytest.raises(ValueError, match="4 among 4 choices"):
        RandomizedResponse(choices=4, token_epsilon=1.0).randomize(np.array([0, 4]), SeededNoise(1))
    with pytest.raises(ValueError, match="-1"):
        RandomizedResponse(choices=4, token_epsilon=1.0).randomize(np.array([-1]), SeededNoise(1))


def test_no_token_gives_none() -> None:
    randomize = RandomizedResponse(choices=4, token_epsilon=1.0).randomize(np.empty(0, np.int32), SystemNoise())
    assert randomize.shape == (0,)


@pytest.mark.parametrize("epsilon", [27.0, 40.0, 800.0, 1e6])
def test_however_large_an_epsilon_is_wrong_labels_occur_and_figures_are_finite(epsilon: float) -> None:
    """Chance comes in steps of 2^-52: a rarer false label never occurs, so the released label would be certain."""
    response = RandomizedResponse(choices=64, token_epsilon=epsilon)
    lie = (1 - response.keep) / 63
    assert lie > 1_000 * 2.0**-52
    assert np.log(response.keep / lie) <= epsilon + 1e-3
    assert np.isfinite(response.renyi()).all()
    assert 0 < (response.epsilon(1e-5) or 0) <= epsilon
