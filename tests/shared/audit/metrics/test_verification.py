"""Verification metrics against closed forms, numeric integration and scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import roc_curve

from moretta.shared.audit.metrics.scores import Metric, Trials, metrics_of
from moretta.shared.audit.metrics.verification import (
    NO_PRIVACY_BITS,
    affine_calibration,
    cllr,
    d_sys,
    d_sys_monotone,
    eer,
    eer_hull,
    min_cllr,
    prior_averaged_entropy,
    resolution_note,
    tpr_at_fpr,
    zebra_expected,
    zebra_tag,
    zebra_worst,
)
from moretta.shared.core.array_types import Float64

METRICS = metrics_of("trials")
BY_ORDER = [m for m in METRICS if m.name not in ("cllr", "d_sys")]
"""Metrics that look at the order of scores alone."""


def from_classes(mated: Float64, nonmated: Float64) -> Trials:
    enrol = np.zeros(len(mated) + len(nonmated), dtype=np.int64)
    trial = np.concatenate([np.zeros(len(mated)), np.ones(len(nonmated))])
    return Trials(np.concatenate([mated, nonmated]), enrol, trial)


def quantiles(n: int) -> Float64:
    """A standard normal sample without sampling error."""
    return np.asarray(norm.ppf((np.arange(n) + 0.5) / n), dtype=np.float64)


def gaussian(separation: float, mated: int = 20_000, nonmated: int = 60_000) -> Trials:
    return from_classes(quantiles(mated) + separation, quantiles(nonmated))


def calibrated(mean: float, n: int = 40_000) -> Trials:
    """Gaussian scores that are their own log-likelihood ratio: means +-mean, variance 2 mean (van Leeuwen, 2013)."""
    spread = np.sqrt(2 * mean)
    return from_classes(mean + spread * quantiles(n), -mean + spread * quantiles(n))


@st.composite
def small_trials(draw: st.DrawFn) -> Trials:
    values = st.lists(st.integers(-4, 4), min_size=1, max_size=25)
    return from_classes(np.array(draw(values), dtype=float), np.array(draw(values), dtype=float))


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("rate", [eer, eer_hull])
def test_eer_of_gaussian_scores_is_the_closed_form(rate: Callable[[Trials], float], separation: float) -> None:
    assert rate(gaussian(separation)) == pytest.approx(norm.cdf(-separation / 2), abs=2e-4)


@given(small_trials())
def test_eer_is_where_scikit_learns_roc_crosses_the_diagonal(trials: Trials) -> None:
    fpr, tpr, _ = roc_curve(trials.mated, trials.scores, drop_intermediate=False)
    crossing = brentq(lambda t: _along(1 - tpr - fpr, t), 0, len(fpr) - 1)
    assert eer(trials) == pytest.approx(_along(fpr, crossing), abs=1e-9)


def _along(values: Float64, at: float) -> float:
    return float(interp1d(np.arange(len(values)), values)(at))


@given(small_trials())
def test_eer_on_the_hull_is_never_worse_for_the_attacker(trials: Trials) -> None:
    assert eer_hull(trials) <= min(eer(trials), 0.5) + 1e-12


@given(small_trials())
def test_eer_on_the_hull_is_that_of_scipys_convex_hull(trials: Trials) -> None:
    fpr, tpr, _ = roc_curve(trials.mated, trials.scores, drop_intermediate=False)
    # The best mix of any two thresholds that has equal errors, by brute force over pairs of operating points.
    gap, best = (1 - tpr) - fpr, 1.0
    for i in range(len(gap)):
        for j in range(len(gap)):
            if gap[i] <= 0 <= gap[j]:
                t = 0.0 if gap[i] == gap[j] else -gap[i] / (gap[j] - gap[i])
                best = min(best, fpr[i] + t * (fpr[j] - fpr[i]))
    assert eer_hull(trials) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("mean", [0.1, 1.0, 4.0])
def test_cllr_of_calibrated_gaussian_scores_is_its_integral(mean: float) -> None:
    spread = np.sqrt(2 * mean)
    expected, _ = quad(
        lambda x: norm.pdf(x, mean, spread) * np.logaddexp(0, -x) / np.log(2), mean - 12 * spread, mean + 12 * spread
    )
    assert cllr(calibrated(mean)) == pytest.approx(expected, abs=1e-3)
    assert min_cllr(calibrated(mean)) == pytest.approx(expected, abs=4e-3)


def test_cllr_punishes_evidence_that_misleads_and_forgives_none() -> None:
    assert cllr(from_classes(np.zeros(5), np.zeros(9))) == 1
    assert cllr(from_classes(np.full(5, -3.0), np.full(9, 3.0))) > 1


def test_affine_calibration_recovers_the_log_likelihood_ratio() -> None:
    trials = calibrated(2.0)
    distorted = from_classes(trials.mated_scores * 0.01 + 0.7, trials.nonmated_scores * 0.01 + 0.7)
    again = affine_calibration(distorted)(distorted.scores)
    assert np.abs(again - trials.scores).max() < 0.05


@given(small_trials(), st.floats(0.1, 10), st.floats(-5, 5))
def test_metrics_of_order_do_not_change_under_increasing_maps(trials: Trials, slope: float, offset: float) -> None:
    mapped = Trials(np.sinh(slope * trials.scores / 4) + offset, trials.enrol_speaker, trials.trial_speaker)
    for m in BY_ORDER:
        assert m.function(mapped) == pytest.approx(m.function(trials)), m.name


@settings(max_examples=40)
@given(small_trials(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_the_trials(trials: Trials, random: object) -> None:
    order = list(range(len(trials)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = trials.subset(np.array(order))
    assert shuffled is not None
    for m in METRICS:
        assert m.function(shuffled) == pytest.approx(m.function(trials)), m.name


@given(small_trials())
def test_every_metric_stays_in_its_range(trials: Trials) -> None:
    limits = {"cllr": np.inf, "zebra_worst": np.inf, "zebra_expected": NO_PRIVACY_BITS, "eer_hull": 0.5}
    for m in METRICS:
        value = m.function(trials)
        assert value is None or -1e-12 <= value <= limits.get(m.name, 1) + 1e-12, m.name


@pytest.mark.parametrize("m", METRICS, ids=lambda m: m.name)
def test_a_constant_score_gives_chance(m: Metric) -> None:
    value = m.function(from_classes(np.zeros(300), np.zeros(7000)))
    # A constant accepts all or nobody: at a small false-positive rate, nobody.
    assert value == pytest.approx(0.0 if m.name.startswith("tpr") else m.chance_among(2), abs=1e-12)


@pytest.mark.parametrize("m", METRICS, ids=lambda m: m.name)
def test_perfect_separation_gives_no_privacy(m: Metric) -> None:
    value = m.function(from_classes(np.full(500, 40.0), np.full(5000, -40.0)))
    expected = {"zebra_expected": NO_PRIVACY_BITS, "eer": 0, "eer_hull": 0, "cllr": 0, "min_cllr": 0}.get(m.name, 1)
    assert value is not None
    if m.name == "zebra_worst":
        assert value > 2
    else:
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("separation", [0.5, 1.5, 3.0])
def test_linkability_of_gaussian_scores_is_its_integral(separation: float) -> None:
    def local(x: float) -> float:
        ratio = np.exp(separation * x - separation**2 / 2)
        return float(norm.pdf(x, separation) * max(2 * ratio / (1 + ratio) - 1, 0))

    expected, _ = quad(local, separation / 2, separation + 12)
    assert d_sys(gaussian(separation)) == pytest.approx(expected, abs=0.01)
    assert d_sys_monotone(gaussian(separation)) == pytest.approx(expected, abs=0.01)


def test_linkability_vanishes_without_a_leak() -> None:
    rng = np.random.default_rng(1)
    trials = from_classes(rng.normal(size=100_000), rng.normal(size=100_000))
    assert d_sys(trials) < 0.02
    assert d_sys_monotone(trials) < 0.02


@pytest.mark.parametrize("llr", [-30.0, -3.0, -1e-4, 0.0, 5e-4, 2e-3, 1.0, 8.0])
def test_prior_averaged_entropy_is_its_integral(llr: float) -> None:
    expected, _ = quad(lambda p: p * np.logaddexp(0, -llr - np.log(p / (1 - p))), 0, 1)
    assert prior_averaged_entropy(np.array(llr)) == pytest.approx(expected, abs=1e-8)


def test_prior_averaged_entropy_takes_infinite_evidence() -> None:
    assert prior_averaged_entropy(np.array(np.inf)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mean", [0.5, 2.0, 5.0])
def test_zebra_of_calibrated_gaussian_scores_is_its_double_integral(mean: float) -> None:
    spread = np.sqrt(2 * mean)
    x = np.linspace(-mean - 10 * spread, mean + 10 * spread, 4001)[:, None]
    p = (np.arange(2000) + 0.5) / 2000
    odds = np.log(p / (1 - p))
    step = float(x[1, 0] - x[0, 0])
    mated = (norm.pdf(x, mean, spread) * p * np.logaddexp(0, -x - odds)).sum(axis=0) * step
    nonmated = (norm.pdf(x, -mean, spread) * (1 - p) * np.logaddexp(0, x + odds)).sum(axis=0) * step
    none = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert zebra_expected(calibrated(mean)) == pytest.approx((none - mated - nonmated).mean() / np.log(2), abs=3e-3)


def test_worst_case_disclosure_is_what_the_trials_can_show() -> None:
    # One mated and n non-mated pseudo-trials join the pure end blocks: (n + 1) : 1 against odds of 1 : 1.
    n = 999
    assert zebra_worst(from_classes(np.ones(n), np.zeros(n))) == pytest.approx(np.log10(n + 1))


@pytest.mark.parametrize(
    ("worst", "tag"), [(0, "0"), (0.5, "A"), (1.5, "B"), (3.9, "C"), (4.5, "D"), (5.5, "E"), (7, "F"), (np.inf, "F")]
)
def test_tags_follow_the_scale_of_evidence(worst: float, tag: str) -> None:
    assert zebra_tag(worst) == tag


@given(small_trials(), st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_true_positive_rates_are_scikit_learns(trials: Trials, limit: float) -> None:
    fpr, tpr, _ = roc_curve(trials.mated, trials.scores, drop_intermediate=False)
    value = tpr_at_fpr(trials, limit)
    if len(trials.nonmated_scores) < 1 / limit:
        assert value is None
    else:
        assert value == pytest.approx(tpr[fpr <= limit + 1e-12].max())


def test_true_positive_rate_of_gaussian_scores_is_the_closed_form() -> None:
    expected = norm.cdf(2 - norm.ppf(1 - 0.001))
    assert tpr_at_fpr(gaussian(2.0), 0.001) == pytest.approx(expected, abs=2e-3)


def test_a_rate_that_the_trials_cannot_resolve_is_named_and_not_given() -> None:
    trials = from_classes(np.ones(10), np.zeros(99))
    assert tpr_at_fpr(trials, 0.01) is None
    assert resolution_note(trials, 0.01) == (
        "99 non-mated trials cannot resolve a false-positive rate of 0.01: at least 100 are needed"
    )
    assert tpr_at_fpr(from_classes(np.ones(10), np.zeros(100)), 0.01) == 1


def test_worst_case_disclosure_is_scikit_learns_isotonic_fit_with_four_added_trials() -> None:
    rng = np.random.default_rng(0)
    mated, nonmated = rng.normal(1.5, 1, 300), rng.normal(0, 1, 4000)
    label = np.concatenate([np.ones(300), np.zeros(4000)])[np.argsort(np.concatenate([mated, nonmated]))]
    share = isotonic_regression(np.concatenate([[1, 0], label, [1, 0]]))[2:-2]
    expected = np.abs(np.log10(share / (1 - share)) - np.log10(300 / 4000)).max()
    assert zebra_worst(from_classes(mated, nonmated)) == pytest.approx(expected)
