import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from moretta.shared.audit.inference.membership import (
    METHODS,
    Membership,
    attack_membership,
    evaluate_membership,
    lira_online,
)
from moretta.shared.audit.inference.shadows import Shadows, membership_halves, train_shadows, true_label_probability
from moretta.shared.audit.metrics.binomial import exact_interval

Floats = npt.NDArray[np.float64]


def gaussian_world(effect: float, *, n: int = 3000, models: int = 16, seed: int = 0) -> list[Membership]:
    """Confidences of known Gaussians: hardness varies by example, membership adds `effect` deviations."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(scale=3, size=n)
    inside = membership_halves(n, models + 2, seed=seed)
    logit = hardness + effect * inside + rng.normal(size=inside.shape)
    probability = 1 / (1 + np.exp(-logit))
    return attack_membership(probability[-1], inside[-1], Shadows(inside[:-2], probability[:-2]))


def test_a_planted_effect_is_found_at_its_closed_form() -> None:
    found = {m.method: m for m in gaussian_world(2.5)}
    online = found["lira online"]
    # 8 models on each side estimate the means: a little below the ideal Phi(d / sqrt 2), never above.
    assert norm.cdf(2.5 / np.sqrt(2)) - 0.03 < online.auc < norm.cdf(2.5 / np.sqrt(2)) + 0.01
    assert online.leaks and found["lira offline"].leaks and found["rmia"].leaks
    at_one_percent = online.rates[1].tpr
    assert at_one_percent is not None and at_one_percent > 0.35
    assert found["loss"].auc < online.auc - 0.15


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nothing_is_found_where_members_look_like_others(method: str) -> None:
    found = [next(m for m in gaussian_world(0.0, n=1500, seed=s) if m.method == method) for s in range(8)]
    assert sum(m.leaks for m in found) <= 2
    assert np.mean([m.auc for m in found]) == pytest.approx(0.5, abs=0.015)


def test_online_scores_are_log_likelihood_ratios_of_the_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    inside = membership_halves(4, 80, seed=0)
    logit = rng.normal(size=inside.shape) * (1 + inside) + inside
    probability = 1 / (1 + np.exp(-logit))
    observed = np.array([-1.0, 0.0, 1.0, 2.0])
    expected = [
        norm.logpdf(x, logit[i, k][...].mean(), logit[i, k].std(ddof=1))
        - norm.logpdf(x, logit[~i, k].mean(), logit[~i, k].std(ddof=1))
        for k, (x, i) in enumerate(zip(observed, inside.T, strict=True))
    ]
    assert lira_online(1 / (1 + np.exp(-observed)), Shadows(inside, probability)) == pytest.approx(np.array(expected))


def nearest_neighbour(x: Floats, y: npt.NDArray[np.int64], seed: int) -> object:
    """A model that memorises: it is sure of what it has seen."""

    def predict(query: Floats) -> Floats:
        distance = np.linalg.norm(query[:, None] - x[None], axis=2)
        output = np.full((len(query), 2), 0.05)
        output[np.arange(len(query)), y[distance.argmin(axis=1)]] = 0.95
        return np.where(distance.min(axis=1)[:, None] < 1e-9, output, 0.2 + 0.6 * output)

    return predict


def constant(x: Floats, y: npt.NDArray[np.int64], seed: int) -> object:
    return lambda query: np.full((len(query), 2), 0.5)


@pytest.mark.parametrize(("train", "leaks"), [(nearest_neighbour, True), (constant, False)])
def test_a_model_that_memorises_is_caught_and_one_that_ignores_its_data_is_not(train: object, leaks: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    member = np.arange(300) % 2 == 0
    output = train(x[member], y[member], 7)(x)  # type: ignore[operator]
    shadows = train_shadows(train, x, y, models=8, seed=1)  # type: ignore[arg-type]
    found = attack_membership(true_label_probability(output, y), member, shadows)
    assert all(m.leaks == leaks for m in found)
    if not leaks:
        assert {m.auc for m in found} == {0.5}


def test_every_example_is_in_half_of_the_shadows_and_people_stay_together() -> None:
    group = np.repeat(np.arange(7), 5)
    inside = membership_halves(35, 8, seed=0, group=group)
    assert (inside.sum(axis=0) == 4).all()
    assert all(len(np.unique(row[group == g])) == 1 for row in inside for g in range(7))


def test_rates_below_the_resolution_carry_a_note_and_no_figure() -> None:
    score = np.arange(400.0)
    result = evaluate_membership("any", score, score >= 200)
    assert result.auc == 1
    assert (result.rates[0].tpr, result.rates[1].tpr) == (None, 1)
    assert result.rates[0].note is not None and "at least 1000" in result.rates[0].note
    assert result.rates[1].interval is not None and result.rates[1].interval.low == pytest.approx(0.025 ** (1 / 200))


def test_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    score, member = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    assert evaluate_membership("any", score, member).auc == pytest.approx(roc_auc_score(member, score))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 40), (40, 40), (1, 1000)])
def test_exact_intervals_leave_their_tails_outside(k: int, n: int) -> None:
    interval = exact_interval(k, n)
    assert interval.low == 0 if k == 0 else binom.sf(k - 1, n, interval.low) == pytest.approx(0.025)
    assert interval.high == 1 if k == n else binom.cdf(k, n, interval.high) == pytest.approx(0.025)


def test_a_rate_is_as_likely_by_chance_as_among_shuffled_labels() -> None:
    members, nonmembers, observed = 60, 200, 6
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(260) < members, (20_000, 1)), axis=1)
    # Members before the third non-member: two of 200 are the 1 % that may be accepted.
    before_third = (shuffled & ((~shuffled).cumsum(axis=1) < 3)).sum(axis=1)
    ordered = np.concatenate([np.ones(observed), np.zeros(3), np.ones(members - observed), np.zeros(nonmembers - 3)])
    rate = evaluate_membership("any", -np.arange(260.0), ordered == 1).rates[1]
    assert rate.tpr == observed / members
    assert rate.p_value == pytest.approx((before_third >= observed).mean(), abs=0.002)
