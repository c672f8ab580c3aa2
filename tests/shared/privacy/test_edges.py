"""Every epsilon is an upper bound over the whole range that a study file takes, or the value is refused by name."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import StudyError
from moretta.shared.privacy.accounting import Accountant, calibrated_noise, composed_epsilon, epsilon_spent
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma, gaussian_delta
from moretta.shared.privacy.local_mechanisms import LaplaceVector, RandomizedResponse
from moretta.shared.study.limits import check_limits
from moretta.shared.study.schema import parse_study

BOUNDED = settings(max_examples=40, deadline=None)


def logarithmic(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(lambda x: min(max(math.exp(x), low), high))


EPSILONS, DELTAS = logarithmic(1e-9, 1e9), logarithmic(1e-15, 0.0999)


def exact_gaussian_delta(epsilon: float, ratio: float) -> Any:
    """Balle and Wang's theorem 8 with 60 digits."""
    with mpmath.workdps(60):
        e, r = mpmath.mpf(epsilon), mpmath.mpf(ratio)
        return mpmath.ncdf(r / 2 - e / r) - mpmath.exp(e) * mpmath.ncdf(-r / 2 - e / r)


def exact_sampled_delta(epsilon: float, sigma: float, rate: float) -> Any:
    """Of one step of the sampled Gaussian, the larger of both directions, with 60 digits.

    With the unit the density is (1 - q) f0 + q f1, without it f0; where their ratio crosses e^epsilon is known.
    """
    with mpmath.workdps(60):
        e, s, q = mpmath.mpf(epsilon), mpmath.mpf(sigma), mpmath.mpf(rate)

        def inference(point: Any, mean: int) -> Any:
            return mpmath.ncdf((mean - point) / s)

        def point(ratio: Any) -> Any:
            return s**2 * mpmath.log((ratio - 1 + q) / q) + mpmath.mpf(1) / 2

        x = point(mpmath.exp(e))
        removed = (1 - q) * inference(x, 0) + q * inference(x, 1) - mpmath.exp(e) * inference(x, 0)
        added = mpmath.mpf(0)
        if mpmath.exp(-e) > 1 - q:
            x = point(mpmath.exp(-e))
            below = 1 - inference(x, 0), 1 - inference(x, 1)
            added = below[0] - mpmath.exp(e) * ((1 - q) * below[0] + q * below[1])
        return max(removed, added)


@BOUNDED
@given(EPSILONS, logarithmic(1e-12, 1e5))
def test_the_delta_of_a_gaussian_is_never_below_the_true_one(epsilon: float, ratio: float) -> None:
    assert gaussian_delta(epsilon, ratio) + 1e-300 >= exact_gaussian_delta(epsilon, ratio)


@BOUNDED
@given(EPSILONS, DELTAS, logarithmic(1e-6, 1e6))
def test_gaussian_noise_can_be_had_for_every_budget_and_keeps_it(
    epsilon: float, delta: float, sensitivity: float
) -> None:
    sigma = calibrated_sigma(epsilon=epsilon, delta=delta, sensitivity=sensitivity)
    assert math.isfinite(sigma) and sigma > 0
    assert exact_gaussian_delta(epsilon, sensitivity / sigma) <= delta


@settings(max_examples=20, deadline=None)
@given(logarithmic(1e-2, 1e6), st.one_of(logarithmic(1e-6, 1), st.just(1.0)), DELTAS, st.sampled_from(["rdp", "prv"]))
def test_one_step_is_never_below_the_truth(sigma: float, rate: float, delta: float, accountant: Accountant) -> None:
    step = SampledGaussian(noise_multiplier=sigma, rate=rate, steps=1)
    spent = epsilon_spent([step], delta=delta, accountant=accountant)
    if spent < 1e6:  # beyond, the oracle itself gets slow
        assert exact_sampled_delta(spent, sigma, rate) <= delta
    composed = composed_epsilon([step], delta=delta)
    assert composed is not None and composed <= spent * (1 + 1e-9)
    if composed < 1e6:
        assert exact_sampled_delta(composed, sigma, rate) <= delta


@settings(max_examples=12, deadline=None)
@given(
    EPSILONS,
    DELTAS,
    st.one_of(logarithmic(1e-5, 1), st.just(1.0)),
    st.integers(1, 1_000_000),
)
def test_a_plan_keeps_its_target_or_is_refused(epsilon: float, delta: float, rate: float, steps: int) -> None:
    try:
        noise = calibrated_noise(epsilon=epsilon, delta=delta, rate=rate, steps=steps)
    except StudyError as refused:
        assert "no noise of DP-SGD" in refused.message and epsilon < 0.2  # the largest order of Renyi bounds it
        return
    parts = [SampledGaussian(noise_multiplier=noise, rate=rate, steps=n) for n in (steps, steps + steps)]
    assert epsilon_spent(parts[:1], delta=delta) <= epsilon
    assert epsilon_spent(parts[:1], delta=delta) <= epsilon_spent(parts[1:], delta=delta), "more rounds cost more"


@pytest.mark.parametrize(("epsilon", "rate"), [(8.0, 0.2), (49.0, 0.2), (60.0, 0.2), (0.5, 1.0), (60.0, 1.0)])
def test_what_the_prv_accountant_plans_is_what_is_reported(epsilon: float, rate: float) -> None:
    noise = calibrated_noise(epsilon=epsilon, delta=1e-3, rate=rate, steps=60, accountant="prv")
    steps = SampledGaussian(noise_multiplier=noise, rate=rate, steps=60)
    assert epsilon_spent([steps], delta=1e-3, accountant="prv") <= epsilon
    composed = composed_epsilon([steps], delta=1e-3)
    assert composed is not None and composed <= epsilon, "a target of 60 was planned as 69.3"


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "delta", "least"),
    [
        (0.01, 0.7, 2000, 0.001, 3.1578),
        (0.01, 0.7, 2000, 1e-05, 5.2298),
        (0.01, 0.7, 2000, 1e-10, 9.7271),
        (0.01, 0.7, 2000, 1e-13, 12.3452),
        (0.2, 1.5, 100, 0.001, 5.3348),
        (0.2, 1.5, 100, 1e-05, 7.5038),
        (0.2, 1.5, 100, 1e-10, 11.6617),
        (0.2, 1.5, 100, 1e-13, 13.7618),
        (0.9, 6.0, 100, 0.001, 5.1882),
        (0.9, 6.0, 100, 1e-05, 7.0293),
        (0.9, 6.0, 100, 1e-10, 10.2854),
        (0.9, 6.0, 100, 1e-13, 11.8139),
    ],
)
def test_figures_are_never_below_those_of_another_library(
    rate: float, sigma: float, steps: int, delta: float, least: float
) -> None:
    """`least` is the optimistic estimate of dp-accounting's privacy loss distributions, over both directions."""
    spent = SampledGaussian(noise_multiplier=sigma, rate=rate, steps=steps)
    composed = composed_epsilon([spent], delta=delta)
    assert composed is not None
    assert least <= composed <= 1.4 * least + 0.2


@pytest.mark.parametrize(
    "content",
    [
        {"privacy": {"epsilon": 1e-9, "delta": 1e-5}},
        {"privacy": {"epsilon": 0.02, "delta": 1e-15}},
        {
            "voice": {
                "anonymizer": "speaker-normalized",
                "options": {"code_training": "federated", "code_epsilon": 1e-300},
            }
        },
    ],
)
def test_a_target_that_no_noise_reaches_is_refused_by_its_key(content: dict[str, Any]) -> None:
    key = "privacy.epsilon" if "privacy" in content else "voice.options.code_epsilon"
    with pytest.raises(StudyError, match=key.replace(".", r"\.")):
        check_limits(parse_study(content))


@pytest.mark.parametrize("value", [0.0, 1e-16, 5e-324, 0.1, 1.0])
@pytest.mark.parametrize("key", ["privacy.delta", "aggregation.delta", "voice.options.budget_delta"])
def test_a_delta_outside_the_range_is_refused_by_its_key(key: str, value: float) -> None:
    content: Any = value
    for part in reversed(key.split(".")):
        content = {part: content}
    content.setdefault("voice", {})["anonymizer"] = "clip-quantizer"
    with pytest.raises(StudyError, match=key.replace(".", r"\.")):
        parse_study(content)


@BOUNDED
@given(logarithmic(1e-9, 1e9), st.integers(1, 100_000), DELTAS)
def test_small_pure_losses_do_not_vanish(epsilon: float, times: int, delta: float) -> None:
    """Of Laplace noise on n values nothing less than the exact figure for one of them is spent."""
    one = 1 - math.exp(-min(epsilon / 2, 700)) if epsilon > 1e-6 else epsilon / 2 * (1 - epsilon)
    for loss in (
        LaplaceVector(value_epsilon=epsilon, values=times),
        RandomizedResponse(choices=2, token_epsilon=epsilon),
    ):
        spent = composed_epsilon([loss], delta=delta)
        assert spent is not None
        assert spent <= (loss.pure_epsilon or 0) * (1 + 1e-9)
        if isinstance(loss, LaplaceVector) and one > delta:  # delta at epsilon 0 of one value is above what is allowed
            assert spent > 0


def test_mixtures_of_all_kinds_at_the_edges_are_figures_or_nothing() -> None:
    kinds = [
        SampledGaussian(noise_multiplier=0.01, rate=0.5, steps=10_000),
        SampledGaussian(noise_multiplier=1e6, rate=1e-6, steps=1, group=3),
        SampledGaussian(noise_multiplier=1e-4, rate=0.3, steps=3, group=1000),
        SampledGaussian(noise_multiplier=1.0, rate=0.1, steps=10, moves=True),
        Gaussian(sigma=1e-9, distance=1.0),
        LaplaceVector(value_epsilon=1e9, values=10**6),
        RandomizedResponse(choices=64, token_epsilon=1e5),
    ]
    for delta in (1e-15, 1e-13, 1e-8, 0.0999):
        figures = [composed_epsilon([kind], delta=delta) for kind in kinds]
        assert all(figure is None or (math.isfinite(figure) and figure >= 0) for figure in figures)
        whole = composed_epsilon(kinds, delta=delta)
        assert whole is None or (math.isfinite(whole) and whole >= max(f for f in figures if f is not None))
