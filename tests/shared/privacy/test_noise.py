from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.stats import kstest, laplace, norm, uniform

from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise, on_grid

SOURCES: list[NoiseSource] = [SystemNoise(), SeededNoise(3, "a")]
N = 20_000


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.kind)
def test_noise_has_the_distribution_it_is_said_to_have(source: NoiseSource) -> None:
    """Kolmogorov and Smirnov: a right source fails one time in a million."""
    for drawn, expected in (
        (source.uniform((N,)), uniform()),
        (source.laplace(2.5, (N,)), laplace(scale=2.5)),
        (source.normal(0.7, (N,)), norm(scale=0.7)),
        (source.private_normal(0.7, (N,)), norm(scale=0.7)),
    ):
        assert kstest(drawn, expected.cdf).pvalue > 1e-6


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_no_bits_of_the_operating_system_give_infinite_noise(byte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: byte * count)
    source = SystemNoise()
    assert 0 < source.uniform((1,))[0] < 1
    for drawn in (source.laplace(1.0, (3,)), source.normal(1.0, (3,)), source.private_normal(1.0, (3,))):
        assert np.isfinite(drawn).all()


def test_system_noise_never_repeats_and_seeded_noise_does() -> None:
    assert not np.array_equal(SystemNoise().private_normal(1.0, (8,)), SystemNoise().private_normal(1.0, (8,)))
    assert np.array_equal(SeededNoise(1, "x").normal(1.0, (8,)), SeededNoise(1, "x").normal(1.0, (8,)))
    assert not np.array_equal(SeededNoise(1, "x").normal(1.0, (8,)), SeededNoise(1, "y").normal(1.0, (8,)))


def test_noise_that_a_guarantee_rests_on_is_a_sum_of_four_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw can be recognised by its low bits; a sum of four cannot (see `_DRAWS`)."""
    drawn: list[np.ndarray] = []
    single = SystemNoise.normal

    def counted(self: SystemNoise, scale: float, shape: tuple[int, ...]) -> np.ndarray:
        drawn.append(single(self, scale, shape))
        return drawn[-1]

    monkeypatch.setattr(SystemNoise, "normal", counted)
    found = SystemNoise().private_normal(3.0, (5,))
    (draws,) = drawn
    assert draws.shape == (4, 5)
    np.testing.assert_allclose(found, draws.sum(axis=0))


def test_many_bytes_are_of_a_key_that_the_operating_system_draws_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.urandom

    def spy(count: int) -> bytes:
        asked.append(count)
        return real(count)

    monkeypatch.setattr(os, "urandom", spy)
    first, second = SystemNoise().uniform((10_000,)), SystemNoise().uniform((10_000,))
    assert asked == [32, 32]
    assert len(np.unique(np.concatenate([first, second]))) == 20_000


def test_what_leaves_lies_on_a_grid_that_the_data_does_not_move() -> None:
    generator = np.random.default_rng(1)
    for scale in (1e-3, 0.7, 40.0):
        step = 2.0 ** np.floor(np.log2(scale) - 12)
        values = generator.normal(0, 10 * scale, 1000)
        rounded = on_grid(values, scale)
        assert rounded.dtype == np.float32
        steps = rounded.astype(np.float64) / step
        np.testing.assert_array_equal(steps, np.round(steps))
        assert np.abs(rounded - values).max() <= step / 2


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-30, 1.0, 1e30])
def test_values_on_a_grid_are_finite_however_small_the_noise_is(scale: float) -> None:
    values = np.array([0.0, 3.0, -3.0, 1e-9])
    assert np.isfinite(on_grid(values, scale)).all()
