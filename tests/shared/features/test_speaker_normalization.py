from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from moretta.shared.features.speaker_normalization import RANK_LIMIT, SpeakerRanks, SpeakerWhitening, secret_weights
from moretta.shared.privacy.noise import SeededNoise

SPREAD = np.ones(3)


def values(clips: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(clips, 3))


def ranks(x: np.ndarray, weights: np.ndarray | None = None) -> SpeakerRanks:
    return SpeakerRanks.of(x, np.ones(len(x)) if weights is None else weights, SPREAD)


def test_where_a_person_lies_is_gone_and_the_order_of_clips_stays() -> None:
    here = values(20)
    there = here + np.array([50.0, -7.0, 0.3])
    np.testing.assert_allclose(ranks(here)(here), ranks(there)(there), atol=1e-9)
    assert spearmanr(ranks(here)(here)[:, 0], here[:, 0]).statistic == pytest.approx(1.0)


def test_the_only_clip_of_a_person_reveals_nothing() -> None:
    for only in (values(1), 40 + 9 * values(1, seed=5)):
        np.testing.assert_array_equal(ranks(only)(only), 0.0)


def test_few_clips_are_normalized_by_the_public_spread() -> None:
    near, far = np.zeros((2, 3)), np.zeros((2, 3))
    near[1], far[1] = 0.1, 3.0
    assert ranks(near)(near)[1, 0] < ranks(far)(far)[1, 0]


def test_new_clips_are_released_without_a_change_of_the_old_ones() -> None:
    known = values(15)
    made = ranks(known)
    before = made(known)
    made(100 + values(5, seed=2))
    np.testing.assert_array_equal(made(known), before)
    assert np.abs(made(100 + values(5, seed=2))).max() <= RANK_LIMIT


def test_equal_values_share_a_place() -> None:
    same = np.repeat(values(1), 9, axis=0)
    np.testing.assert_allclose(ranks(same)(same), 0.0, atol=1e-12)


@pytest.mark.parametrize(("secret", "expected"), [(False, -1 / 9), (True, 0.0)])
def test_secret_weights_leave_no_two_clips_of_a_person_correlated(secret: bool, expected: float) -> None:
    """With equal weights, who has some of a person's clips knows where the others lie."""
    generator = np.random.default_rng(0)
    products, squares = [], []
    for draw in range(3000):
        x = generator.normal(size=10)
        weights = secret_weights(10, SeededNoise(1, draw)) if secret else np.ones(10)
        reported = x - weights @ x / weights.sum()
        products.append(reported[0] * reported[1])
        squares.append(reported[0] ** 2)
    assert np.mean(products) / np.mean(squares) == pytest.approx(expected, abs=0.05)


def test_whitening_leaves_no_covariance_of_a_person_and_shrinks_where_clips_are_few() -> None:
    mixed = np.random.default_rng(3).normal(size=(400, 3)) @ np.array([[2, 1, 0], [0, 1, 0.5], [0, 0, 0.3]]) + 5
    whitened = SpeakerWhitening.of(mixed, np.ones(400))(mixed)
    np.testing.assert_allclose(np.cov(whitened.T, ddof=0), np.eye(3), atol=0.1)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-9)
    pair = SpeakerWhitening.of(mixed[:2], np.ones(2))
    assert np.abs(pair(mixed[:2])).max() < 3
    only = SpeakerWhitening.of(mixed[:1], np.ones(1))
    np.testing.assert_array_equal(only(mixed[:1]), 0.0)
