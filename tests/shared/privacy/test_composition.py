from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_auditing import group_privacy

from moretta.shared.privacy.accounting import composed_epsilon
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.local_mechanisms import LaplaceVector, RandomizedResponse
from moretta.shared.privacy.mechanism import Mechanism, Unbounded

LAPLACE = LaplaceVector(value_epsilon=0.5, values=1)
GAUSSIAN = Gaussian(sigma=3.0, distance=1.0)
STEPS = SampledGaussian(noise_multiplier=1.27, rate=0.2, steps=50)
ANSWERS = RandomizedResponse(choices=16, token_epsilon=1.0, tokens=2)
KINDS: list[Mechanism] = [LAPLACE, GAUSSIAN, STEPS, ANSWERS]


def test_different_mechanisms_together_lie_close_above_dp_accountings_figure() -> None:
    """dp-accounting 0.6.0, `PLDAccountant`: Gaussian of sigma 3 twice, Laplace of scale 2 three times, and 50 steps at
    rate 0.2 with noise multiplier 1.27, at 1e-3: 5.771375."""
    found = composed_epsilon([GAUSSIAN] * 2 + [LAPLACE] * 3 + [STEPS], delta=1e-3)
    assert 5.771375 <= found <= 1.15 * 5.771375


@pytest.mark.parametrize(
    ("losses", "delta", "exact", "slack"),
    [
        ([LaplaceVector(value_epsilon=1.0, values=1)], 1e-3, 0.997999, 1.001),
        ([LaplaceVector(value_epsilon=0.1, values=100)], 1e-5, 4.220347, 1.08),
        ([Gaussian(sigma=2.0, distance=1.0)] * 5, 1e-5, 4.983306, 1.0001),
    ],
)
def test_one_kind_lies_close_above_dp_accountings_figure(
    losses: list[Mechanism], delta: float, exact: float, slack: float
) -> None:
    """dp-accounting 0.6.0, `PLDAccountant` of `LaplaceDpEvent(1)`, `LaplaceDpEvent(10)` 100 times, and
    `GaussianDpEvent(2)` five times."""
    assert exact - 1e-5 <= composed_epsilon(losses, delta=delta) <= slack * exact


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([LAPLACE, GAUSSIAN, ANSWERS]), min_size=1, max_size=6), st.floats(-8, -2))
def test_the_whole_is_at_least_each_part_at_most_their_sum_and_has_no_order(
    losses: list[Mechanism], log_delta: float
) -> None:
    delta = 10**log_delta
    whole = composed_epsilon(losses, delta=delta)
    assert whole == pytest.approx(composed_epsilon(losses[::-1], delta=delta))
    assert whole >= max(composed_epsilon([loss], delta=delta) for loss in losses) - 1e-9
    basic = sum(loss.epsilon(delta / len(losses)) or 0 for loss in losses)  # basic composition splits delta
    assert whole <= 1.15 * basic


def test_every_release_adds() -> None:
    growing = [composed_epsilon([loss] * 3 + [GAUSSIAN], delta=1e-5) for loss in KINDS]
    fewer = [composed_epsilon([loss] * 2 + [GAUSSIAN], delta=1e-5) for loss in KINDS]
    assert all(a > b for a, b in zip(growing, fewer, strict=True))


def test_pure_losses_add_up_exactly_where_no_delta_is_given() -> None:
    assert composed_epsilon([LAPLACE, ANSWERS, ANSWERS], delta=0.0) == pytest.approx(0.5 + 2 * 2.0)
    assert composed_epsilon([LAPLACE, GAUSSIAN], delta=0.0) is None


def test_one_loss_without_a_bound_leaves_nothing() -> None:
    for loss in KINDS:
        assert composed_epsilon([loss, Unbounded(why="raw")], delta=1e-3) is None
        assert composed_epsilon([Unbounded(why="raw")] * 2, delta=0.0) is None


def test_steps_of_dp_sgd_in_many_entries_are_the_same_as_in_one() -> None:
    rounds = [SampledGaussian(noise_multiplier=2.0, rate=0.2, steps=5)] * 10
    at_once = SampledGaussian(noise_multiplier=2.0, rate=0.2, steps=50)
    assert composed_epsilon(rounds, delta=1e-3) == pytest.approx(composed_epsilon([at_once], delta=1e-3))


def test_the_lemma_on_groups() -> None:
    """Vadhan 2017, lemma 2.2: delta grows by (e^(k epsilon) - 1) / (e^epsilon - 1)."""
    epsilon, delta = group_privacy(1.0, 1e-6, 3)
    assert epsilon == 3.0
    assert delta == pytest.approx(1e-6 * (1 + 2.718281828 + 2.718281828**2))
    assert group_privacy(0.0, 1e-6, 3) == (0.0, pytest.approx(3e-6))
    assert group_privacy(8.0, 1e-3, 44) == (352.0, 1.0)  # a delta of 1 guarantees nothing, and says so
    assert group_privacy(8.0, 1e-3, 10_000)[1] == 1.0
