"""Audits prove no more than is true, and enough to catch a mechanism with half its noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from privacy_auditing import CanaryTrials, gaussian_lower_bound, lower_bound, one_run_lower_bound

from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.local_mechanisms import LaplaceVector, RandomizedResponse
from moretta.shared.privacy.noise import SeededNoise

Draw = Callable[[int, float], CanaryTrials]
"""So many trials of a mechanism with so many times its noise. Seeded, so that a test does not fail by chance."""


def laplace(trials: int, noise: float, *, epsilon: float = 1.0) -> CanaryTrials:
    """The worst pair: a value at one end of its range or at the other, with noise of scale range / epsilon."""
    drawn = SeededNoise(trials, str(noise)).laplace(noise / epsilon, (2, trials))
    return CanaryTrials(1 + drawn[0], drawn[1])


def gaussian(trials: int, noise: float, *, epsilon: float = 1.0, delta: float = 1e-5) -> CanaryTrials:
    sigma = noise * calibrated_sigma(epsilon=epsilon, delta=delta, sensitivity=1.0)
    drawn = SeededNoise(trials, str(noise)).private_normal(sigma, (2, trials))
    return CanaryTrials(1 + drawn[0], drawn[1])


def responses(trials: int, noise: float, *, epsilon: float = 1.0) -> CanaryTrials:
    """Half the noise: half as many tokens are replaced."""
    right = RandomizedResponse(choices=16, token_epsilon=epsilon)
    lying = noise * (1 - right.keep)
    used = RandomizedResponse(choices=16, token_epsilon=math.log(15 * (1 - lying) / lying))
    randomized = [used.randomize(np.full(trials, token), SeededNoise(trials, str(noise), token)) for token in (0, 1)]
    return CanaryTrials((randomized[0] == 0).astype(float), (randomized[1] == 0).astype(float))


def laplace_vector(trials: int, noise: float) -> CanaryTrials:
    """Ten values of 0.2 each; the attacker looks at the log ratio of densities, the best there is."""
    claim = LaplaceVector(value_epsilon=0.2, values=10)
    drawn = SeededNoise(trials, str(noise)).laplace(noise / claim.value_epsilon, (2, trials, 10))
    outputs = np.stack([1 + drawn[0], drawn[1]])
    ratios = (np.abs(outputs) - np.abs(outputs - 1)).sum(axis=2)
    return CanaryTrials(ratios[0], ratios[1])


MECHANISMS: dict[str, tuple[Draw, float, float, int]] = {
    "laplace": (laplace, 1.0, 0.0, 20_000),
    "ten laplace values": (laplace_vector, 2.0, 0.0, 20_000),
    "randomized response": (responses, 1.0, 0.0, 20_000),
    "gaussian": (gaussian, 1.0, 1e-5, 400_000),
}
"""Draw, claimed epsilon, delta, trials."""


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_bound_lies_under_the_claim_of_an_honest_mechanism_and_near_it(name: str) -> None:
    draw, claim, delta, trials = MECHANISMS[name]
    found = lower_bound(draw(trials, 1.0), delta=delta, confidence=0.999)
    assert 0.3 * claim < found <= claim


@pytest.mark.parametrize("name", MECHANISMS)
def test_half_the_noise_is_caught(name: str) -> None:
    draw, claim, delta, trials = MECHANISMS[name]
    assert lower_bound(draw(trials, 0.5), delta=delta, confidence=0.999) > claim


def test_a_gaussian_is_audited_far_tighter_if_it_is_known_to_be_one() -> None:
    honest, broken = gaussian(100_000, 1.0), gaussian(100_000, 0.5)
    assert 0.7 < gaussian_lower_bound(honest, delta=1e-5, confidence=0.999) <= 1.0
    assert gaussian_lower_bound(broken, delta=1e-5, confidence=0.999) > 1.7
    assert gaussian_lower_bound(honest, delta=1e-5) > lower_bound(honest, delta=1e-5)


def test_bounds_are_wrong_no_more_often_than_they_say() -> None:
    """Three hundred audits of mechanisms whose epsilon is known exactly, at 80 %."""
    wrong = {"threshold": 0, "gaussian": 0, "one run": 0}
    source = SeededNoise(5, "coverage")
    coin = np.random.default_rng(5)
    mu = 1.0
    exact = Gaussian(sigma=1.0, distance=mu).epsilon(1e-3)
    assert exact is not None
    for _ in range(300):
        drawn = source.laplace(1.0, (2, 400))
        wrong["threshold"] += lower_bound(CanaryTrials(1 + drawn[0], drawn[1]), confidence=0.8) > 1.0
        drawn = source.normal(1.0, (2, 400))
        wrong["gaussian"] += (
            gaussian_lower_bound(CanaryTrials(mu + drawn[0], drawn[1]), delta=1e-3, confidence=0.8) > exact
        )
        included = coin.random(400) < 0.5
        scores = included + source.laplace(1.0, (400,))
        wrong["one run"] += one_run_lower_bound(scores, included, guesses=100, confidence=0.8) > 1.0
    assert max(wrong.values()) <= 0.2 * 300
    assert wrong["gaussian"] >= 5  # and not by proving nothing at all


@pytest.mark.parametrize("trials", [40, 400, 4_000])
def test_scores_that_never_overlap_prove_what_so_many_trials_can(trials: int) -> None:
    """No error in n trials: the share of errors is at most 1 - (error)^(1/n), by Clopper and Pearson."""
    found = lower_bound(CanaryTrials(np.ones(trials), np.zeros(trials)))
    limit = 1 - 0.025 ** (1 / (trials / 2))
    assert found == pytest.approx(math.log((1 - limit) / limit))


def test_every_guess_right_in_one_run_proves_what_the_formula_says() -> None:
    """Steinke et al. 2023: with delta 0 and r right guesses of r, p^r = 0.05, so epsilon is the log odds of p."""
    scores, included = np.arange(1000.0), np.arange(1000) >= 500
    share = 0.05 ** (1 / 100)
    found = one_run_lower_bound(scores, included, guesses=100)
    assert found == pytest.approx(math.log(share / (1 - share)), abs=1e-4)
    assert one_run_lower_bound(scores, included, guesses=100, delta=1e-5) < found


def test_delta_takes_from_what_is_proven() -> None:
    trials = CanaryTrials(np.ones(400), np.zeros(400))
    assert lower_bound(trials, delta=0.5) < lower_bound(trials, delta=1e-5) < lower_bound(trials)
    assert lower_bound(trials, delta=0.999) == 0.0


def test_an_attacker_that_guesses_proves_nothing() -> None:
    generator = np.random.default_rng(3)
    scores = generator.random((2, 4_000))
    assert lower_bound(CanaryTrials(scores[0], scores[1])) < 0.15
    assert gaussian_lower_bound(CanaryTrials(scores[0], scores[1]), delta=1e-5) < 0.15
    assert one_run_lower_bound(scores[0], generator.random(4_000) < 0.5, guesses=400) < 0.3
