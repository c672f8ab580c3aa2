"""Noise on sums of sites' updates: calibrated, by an oracle of its own, and shared out so that enough is left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from moretta.shared.privacy.mechanism import from_record
from moretta.shared.privacy.site_updates import (
    SiteGaussian,
    SitePlan,
    changed,
    clipped_change,
    mean_sensitivity,
    plan_site_level,
)
from moretta.shared.study.schema import parse_study


def planned(rounds: int = 10, **aggregation: Any) -> SitePlan:
    study = parse_study({"train": {"rounds": rounds}, "aggregation": {"dp": "central", **aggregation}})
    plan = plan_site_level(study)
    assert plan is not None
    return plan


def hockey_stick(epsilon: float, noise_multiplier: float, rounds: int) -> float:
    """Delta of `rounds` sums with and without a site whose update has norm 1, from the definition: noise is the same
    in all directions, so all rounds together are one, along the direction that the site moves."""
    reach = math.sqrt(rounds) / noise_multiplier

    def excess(x: float) -> float:
        return max(norm.pdf(x, reach) - math.exp(epsilon) * norm.pdf(x), 0.0)

    return float(quad(excess, epsilon / reach + reach / 2, reach + 14, epsabs=1e-14, limit=300)[0])


@pytest.mark.parametrize(("epsilon", "delta", "rounds"), [(1.0, 1e-3, 10), (8.0, 1e-5, 3), (0.3, 1e-6, 40)])
def test_all_rounds_of_all_models_together_spend_the_target_and_no_more(
    epsilon: float, delta: float, rounds: int
) -> None:
    plan = planned(rounds, epsilon=epsilon, delta=delta)
    assert plan.rounds == 2 * rounds
    assert plan.loss(plan.rounds).epsilon(delta) == pytest.approx(epsilon, rel=1e-6)
    assert hockey_stick(epsilon, plan.noise_multiplier, plan.rounds) == pytest.approx(delta, rel=1e-4)


def test_epsilon_is_what_opacus_own_accountants_say_at_a_sampling_rate_of_1() -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant

    claim = SiteGaussian(noise_multiplier=6.0, rounds=20).epsilon(1e-5)
    assert claim is not None
    tight, loose = PRVAccountant(), RDPAccountant()
    tight.history = loose.history = [(6.0, 1.0, 20)]
    assert tight.get_epsilon(1e-5) == pytest.approx(claim, rel=0.02)
    assert claim <= loose.get_epsilon(1e-5)


def test_what_a_ledger_keeps_is_read_back_the_same_and_rounds_add_up() -> None:
    one = SiteGaussian(noise_multiplier=3.0, rounds=7)
    assert from_record(one.record()) == one
    assert one.for_group(2).epsilon(1e-5) == pytest.approx(SiteGaussian(noise_multiplier=1.5, rounds=7).epsilon(1e-5))


def _updates(seed: int, sites: int, spread: float) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"w": spread * generator.standard_normal((2, 3)), "b": spread * generator.standard_normal(4)}
        for _ in range(sites)
    ]


SENT = {"w": np.ones((2, 3)), "b": np.zeros(4), "fixed": np.full(2, 7.0)}


def _flat(change: dict[str, Any]) -> Any:
    return np.concatenate([change[name].ravel() for name in sorted(change)])


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_no_update_is_longer_than_the_norm_and_a_short_one_stays(seed: int, spread: float, bound: float) -> None:
    update = {**_updates(seed, 1, spread)[0], "fixed": np.full(2, 1e9)}
    change = clipped_change(SENT, update, trained={"w", "b"}, norm=bound)
    length = float(np.linalg.norm(_flat(change)))
    plain = float(np.linalg.norm(_flat({n: update[n] - SENT[n] for n in ("w", "b")})))
    assert length <= bound
    assert length == pytest.approx(min(plain, bound), rel=1e-9)
    assert set(change) == {"w", "b"}
    assert np.array_equal(changed(SENT, change)["fixed"], SENT["fixed"])


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_one_site_moves_the_sum_of_updates_by_the_clipping_norm_at_most(seed: int, sites: int) -> None:
    clipped = [_flat(clipped_change(SENT, u, trained={"w", "b"}, norm=0.5)) for u in _updates(seed, sites, 10.0)]
    assert np.linalg.norm(sum(clipped) - sum(clipped[1:])) <= 0.5 + 1e-12


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_update_that_cannot_be_clipped_changes_nothing(bad: float) -> None:
    """Left out it would tell one bit without noise, and so would an error."""
    sent = {"v": np.ones(2), "w": np.zeros(2)}
    change = clipped_change(sent, {"v": np.zeros(2), "w": np.array([bad, 0])}, trained={"v", "w"}, norm=1.0)
    assert {name: array.tolist() for name, array in change.items()} == {"v": [0, 0], "w": [0, 0]}


@given(st.lists(st.integers(1, 500), min_size=2, max_size=12), st.data())
def test_a_mean_by_numbers_of_clips_has_the_sensitivity_of_its_largest_site(weights: list[int], data: Any) -> None:
    """The site's update becomes nothing, and its place stays: no site moves the mean further, and the largest does."""
    site = data.draw(st.integers(0, len(weights) - 1))
    moved = weights[site] / sum(weights)
    assert moved <= mean_sensitivity(weights, 1.0) + 1e-15
    assert mean_sensitivity(weights, 1.0) == pytest.approx(max(weights) / sum(weights))
    assert mean_sensitivity(weights, 1.0) >= 1 / len(weights) - 1e-15
    assert mean_sensitivity([1.0] * len(weights), 2.0) == pytest.approx(2.0 / len(weights))


def test_a_mean_whose_count_goes_down_with_its_site_moves_twice_as_far() -> None:
    """The count is released beside the sum, and the guarantee is that of the sum."""
    others, site = [-1.0] * 9, 1.0
    assert abs(np.mean([*others, site]) - np.mean(others)) == pytest.approx(2 * mean_sensitivity([1] * 10, 1.0))


@given(st.integers(2, 12), st.integers(0, 10), st.integers(0, 6))
def test_without_the_shares_of_the_curious_enough_noise_is_left(least: int, curious: int, more: int) -> None:
    if curious > least - 2:
        with pytest.raises(Exception, match="at least two must be left"):
            planned(dp="distributed", min_sites=least, curious_sites=curious)
        return
    plan = planned(dp="distributed", min_sites=least, curious_sites=curious)
    left = math.sqrt(least + more - curious) * plan.share
    assert left >= plan.sigma * (1 - 1e-12)
    assert plan.loss_of_share(1).noise_multiplier == pytest.approx(plan.share / plan.clipping_norm)


def test_the_server_alone_draws_the_whole_noise() -> None:
    plan = planned(min_sites=5, clipping_norm=0.25)
    assert plan.sigma == pytest.approx(plan.noise_multiplier * 0.25)
    assert plan.curious_sites == 0


def test_a_study_without_it_has_no_plan() -> None:
    assert plan_site_level(parse_study({})) is None
