from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma, gaussian_delta, gaussian_epsilon


@given(st.floats(0.0, 10.0), st.floats(0.05, 5.0))
def test_delta_is_the_hockey_stick_divergence_by_numerical_integration(epsilon: float, ratio: float) -> None:
    """Of N(ratio, 1) and N(0, 1), straight from the definition."""

    def excess(x: float) -> float:
        return max(norm.pdf(x, ratio) - math.exp(epsilon) * norm.pdf(x), 0.0)

    crossing = epsilon / ratio + ratio / 2
    expected, _ = quad(excess, crossing, max(crossing, ratio) + 12, epsabs=1e-13, limit=200)
    assert gaussian_delta(epsilon, ratio) == pytest.approx(expected, abs=1e-10)


@given(st.floats(0.05, 20.0), st.floats(-12.0, -1.0), st.floats(0.01, 100.0))
def test_calibration_and_epsilon_are_inverse_and_err_on_the_safe_side(
    epsilon: float, log_delta: float, reach: float
) -> None:
    delta = 10**log_delta
    sigma = calibrated_sigma(epsilon=epsilon, delta=delta, sensitivity=reach)
    assert Gaussian(sigma=sigma, distance=reach).epsilon(delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-9)
    assert gaussian_delta(epsilon, reach / sigma) <= delta * (1 + 1e-9)  # it is a difference, and rounded


def test_known_values() -> None:
    """The design's own (a vector of norm 1 at epsilon 1 and 8) and that of dp-accounting 0.6.0:

    `GaussianDpEvent(2.0)` five times in its PLD accountant at 1e-5 gives 4.983306407.
    """
    assert calibrated_sigma(epsilon=1.0, delta=1e-5, sensitivity=2.0) == pytest.approx(7.46, abs=0.01)
    assert calibrated_sigma(epsilon=8.0, delta=1e-5, sensitivity=2.0) == pytest.approx(1.2, abs=0.01)
    five = Gaussian(sigma=2.0, distance=math.sqrt(5))
    assert five.epsilon(1e-5) == pytest.approx(4.983306407, abs=1e-6)


def test_the_exact_figure_needs_less_noise_than_the_classical_formula() -> None:
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5  # Dwork and Roth 2014, theorem A.1, epsilon below 1
    assert calibrated_sigma(epsilon=0.5, delta=1e-5, sensitivity=1.0) < classical


def test_renyi_curve_is_that_of_two_gaussians_by_numerical_integration(oracle: Any) -> None:
    from moretta.shared.privacy.mechanism import ORDERS

    mechanism = Gaussian(sigma=1.5, distance=2.0)
    x, step = np.linspace(-60, 60, 400_001, retstep=True)
    log_p, log_q = norm.logpdf(x, 2.0, 1.5), norm.logpdf(x, 0.0, 1.5)
    for order in (1.5, 4.0, 12.0):
        expected = np.log(np.exp(order * log_p + (1 - order) * log_q).sum() * step) / (order - 1)
        assert mechanism.renyi()[ORDERS.index(order)] == pytest.approx(expected, rel=1e-6)


def test_much_noise_guarantees_everything_and_none_is_never_pure() -> None:
    assert gaussian_epsilon(1e-3, 1e-4) == 0.0
    assert Gaussian(sigma=1.0, distance=1.0).epsilon(0.0) is None
    with pytest.raises(ValueError, match="delta is 0"):
        gaussian_epsilon(0.0, 1.0)
