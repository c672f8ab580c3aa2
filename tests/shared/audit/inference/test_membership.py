import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from moretta.shared.audit.inference.trained_models import (
    METHODS,
    Shadows,
    area_under_roc,
    lira_online,
    membership_halves,
    train_shadows,
    true_label_probability,
)
from moretta.shared.audit.inference.twelve_networks import CHOSEN
from moretta.shared.audit.metrics import Trials
from moretta.shared.audit.metrics.intervals import exact_interval
from moretta.shared.audit.metrics.verification import tpr_at_fpr
from moretta.shared.core.array_types import Float64


def trials(score: Float64, member: npt.NDArray[np.bool_]) -> Trials:
    return Trials(score, np.zeros(len(score)), np.where(member, 0, 1))


def gaussian_world(
    effect: float, *, n: int = 3000, models: int = 16, seed: int = 0, only: str | None = None
) -> dict[str, Trials]:
    """Confidences of known Gaussians: hardness varies by example, membership adds `effect` deviations."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(scale=3, size=n)
    inside = membership_halves(n, models + 2, seed=seed)
    logit = hardness + effect * inside + rng.normal(size=inside.shape)
    probability = 1 / (1 + np.exp(-logit))
    shadows = Shadows(inside[:-2], probability[:-2])
    methods = METHODS if only is None else {only: METHODS[only]}
    return {name: trials(score(probability[-1], shadows), inside[-1]) for name, score in methods.items()}


def test_a_planted_effect_is_found_at_its_closed_form() -> None:
    found = gaussian_world(2.5)
    online = area_under_roc(found["lira online"])
    # 8 models on each side estimate the means: a little below the ideal Phi(d / sqrt 2), never above.
    assert norm.cdf(2.5 / np.sqrt(2)) - 0.03 < online < norm.cdf(2.5 / np.sqrt(2)) + 0.01
    assert area_under_roc(found["lira offline"]) > 0.8 and area_under_roc(found["rmia"]) > 0.8
    # They learn the same from 16 models, and nothing says that the two kinds are Gaussian.
    assert area_under_roc(found[CHOSEN]) > online - 0.03
    at_one_percent = tpr_at_fpr(found["lira online"], 0.01)
    assert at_one_percent is not None and at_one_percent > 0.35
    assert area_under_roc(found["loss"]) < online - 0.15


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nothing_is_found_where_members_look_like_others(method: str) -> None:
    seeds = range(3 if method == CHOSEN else 8)  # each takes the networks seconds
    found = [area_under_roc(gaussian_world(0.0, n=1500, seed=s, only=method)[method]) for s in seeds]
    assert max(abs(auc - 0.5) for auc in found) < 0.05
    deviation = np.sqrt(2 / 750 / 12)  # of the area between 750 and 750 examples that do not differ
    assert np.mean(found) == pytest.approx(0.5, abs=3 * deviation / np.sqrt(len(found)))


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


def nearest_neighbour(x: Float64, y: npt.NDArray[np.int64], seed: int) -> object:
    """A model that memorises: it is sure of what it has seen."""

    def predict(query: Float64) -> Float64:
        distance = np.linalg.norm(query[:, None] - x[None], axis=2)
        output = np.full((len(query), 2), 0.05)
        output[np.arange(len(query)), y[distance.argmin(axis=1)]] = 0.95
        return np.where(distance.min(axis=1)[:, None] < 1e-9, output, 0.2 + 0.6 * output)

    return predict


def constant(x: Float64, y: npt.NDArray[np.int64], seed: int) -> object:
    return lambda query: np.full((len(query), 2), 0.5)


@pytest.mark.parametrize(("train", "leaks"), [(nearest_neighbour, True), (constant, False)])
def test_a_model_that_memorises_is_caught_and_one_that_ignores_its_data_is_not(train: object, leaks: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    member = np.arange(300) % 2 == 0
    answer = train(x[member], y[member], 7)(x)  # type: ignore[operator]
    shadows = train_shadows(train, x, y, models=8, seed=1)  # type: ignore[arg-type]
    probability = true_label_probability(answer, y)
    found = [area_under_roc(trials(score(probability, shadows), member)) for score in METHODS.values()]
    if leaks:
        assert min(found) > 0.6
    else:
        assert set(found) == {0.5}


def test_every_example_is_in_half_of_the_shadows_and_people_stay_together() -> None:
    group = np.repeat(np.arange(7), 5)
    inside = membership_halves(35, 8, seed=0, group=group)
    assert (inside.sum(axis=0) == 4).all()
    assert all(len(np.unique(row[group == g])) == 1 for row in inside for g in range(7))


def test_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    score, member = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    assert area_under_roc(trials(score, member)) == pytest.approx(roc_auc_score(member, score))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 40), (40, 40), (1, 1000)])
def test_exact_intervals_leave_their_tails_outside(k: int, n: int) -> None:
    interval = exact_interval(k, n)
    assert interval.low == 0 if k == 0 else binom.sf(k - 1, n, interval.low) == pytest.approx(0.025)
    assert interval.high == 1 if k == n else binom.cdf(k, n, interval.high) == pytest.approx(0.025)
