import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from moretta.client.anonymizers.voice_baselines import linear_prediction, move_formants, move_poles


def vowel(formants_hz: tuple[float, ...], seconds: float = 1.0) -> np.ndarray:
    """Pulses at 100 Hz through resonances."""
    sound = np.zeros(int(16_000 * seconds))
    sound[::160] = 1.0
    for hertz in formants_hz:
        radius, angle = np.exp(-np.pi * 80 / 16_000), 2 * np.pi * hertz / 16_000
        sound = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], sound)
    return (0.1 * sound / np.abs(sound).max()).astype(np.float32)


def peak_hz(sound: np.ndarray) -> float:
    filters = linear_prediction(sound[4000:8000][None].astype(np.float64) * np.hanning(4000))
    response = 1 / np.abs(np.fft.rfft(filters[0], 16_000))
    return float(np.argmax(response))


@pytest.mark.parametrize("hertz", [700.0, 1200.0])
def test_formants_move_to_the_power_of_their_angle(hertz):
    angle = 2 * np.pi * hertz / 16_000
    expected = angle**0.8 * 16_000 / (2 * np.pi)
    assert peak_hz(vowel((hertz,))) == pytest.approx(hertz, abs=60)
    assert peak_hz(move_formants(vowel((hertz,)), 0.8)) == pytest.approx(expected, abs=80)


def test_coefficient_one_changes_nothing():
    sound = vowel((600.0, 1700.0)) + (0.001 * np.random.default_rng(1).standard_normal(16_000)).astype(np.float32)
    np.testing.assert_allclose(move_formants(sound, 1.0), sound, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 0.95), st.floats(1e-4, 1.0))
def test_filters_stay_stable_and_sound_finite_at_its_level(seed, alpha, level):
    sound = (level * np.tanh(np.random.default_rng(seed).standard_normal(3000))).astype(np.float32)
    out = move_formants(sound, alpha)
    assert out.shape == sound.shape
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1
    assert np.sqrt(np.mean(out**2)) <= 1.01 * np.sqrt(np.mean(sound**2))


@pytest.mark.parametrize("sound", [np.zeros(4000), np.ones(4000), np.sin(0.3 * np.arange(4000)), np.eye(1, 4000)[0]])
def test_degenerate_sound_is_survived(sound):
    assert np.isfinite(move_formants(sound.astype(np.float32), 0.8)).all()


def test_moved_filters_are_real_stable_and_of_the_same_order():
    frames = np.random.default_rng(2).standard_normal((20, 320))
    filters = linear_prediction(frames)
    moved = move_poles(filters, 0.8)
    assert moved.shape == filters.shape == (20, 21)
    for before, after in zip(filters, moved, strict=True):
        assert np.abs(np.roots(before)).max() < 1
        assert np.abs(np.roots(after)).max() < 1
        np.testing.assert_allclose(np.sort(np.abs(np.roots(before))), np.sort(np.abs(np.roots(after))), atol=1e-5)
