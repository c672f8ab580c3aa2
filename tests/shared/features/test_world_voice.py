"""The WORLD vocoder: requested changes have the requested size, and nothing else changes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.signal import lfilter

from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.mfcc import SAMPLE_RATE
from moretta.shared.features.prosodic_features import pitch_track
from moretta.shared.features.world_voice import BINS, FFT_SAMPLES, WorldVoice, missing_world

needs_world = pytest.mark.skipif(missing_world() is not None, reason="install the extra world")
FORMANT_HERTZ, PITCH_HERTZ = 1200.0, 140.0


@pytest.fixture(scope="module")
def vowel() -> np.ndarray:
    """Pulses of one pitch through one resonance, 0.8 s."""
    pulses = np.zeros(SAMPLE_RATE * 8 // 10)
    pulses[np.arange(0, len(pulses), SAMPLE_RATE / PITCH_HERTZ).astype(int)] = 1.0
    radius, angle = 0.97, 2 * np.pi * FORMANT_HERTZ / SAMPLE_RATE
    sound = lfilter([1.0], [1, -2 * radius * np.cos(angle), radius**2], pulses)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def pitch(samples: np.ndarray) -> float:
    track = pitch_track(samples)
    return float(np.median(track.hertz[track.clarity > 0.6]))


def formant(samples: np.ndarray) -> float:
    """The strongest frequency of the smoothed spectrum."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    width = round(2 * PITCH_HERTZ * len(samples) / SAMPLE_RATE)
    smooth = np.convolve(power, np.hanning(width), "same")
    return float(smooth.argmax() * SAMPLE_RATE / len(samples))


@needs_world
@pytest.mark.parametrize("tracker", ["dio", "harvest"])
def test_sound_that_is_taken_apart_comes_back(vowel: np.ndarray, tracker: str) -> None:
    back = WorldVoice.of(vowel, tracker=tracker).sound()  # type: ignore[arg-type]
    assert abs(len(back) - len(vowel)) <= 160
    assert pitch(back) == pytest.approx(PITCH_HERTZ, rel=0.02)
    assert formant(back) == pytest.approx(FORMANT_HERTZ, rel=0.06)
    assert 20 * np.log10(back.std() / vowel.std()) == pytest.approx(0, abs=1.5)


@needs_world
def test_same_clip_gives_the_same_sound(vowel: np.ndarray) -> None:
    first = WorldVoice.of(vowel).sound()
    WorldVoice.of(vowel[: SAMPLE_RATE // 2]).sound()
    np.testing.assert_array_equal(first, WorldVoice.of(vowel).sound())


@needs_world
def test_pitch_moves_and_formants_stay(vowel: np.ndarray) -> None:
    higher = WorldVoice.of(vowel).with_pitch(1.5).sound()
    assert pitch(higher) == pytest.approx(1.5 * PITCH_HERTZ, rel=0.02)
    assert formant(higher) == pytest.approx(FORMANT_HERTZ, rel=0.1)


@needs_world
def test_warp_moves_formants_and_pitch_stays(vowel: np.ndarray) -> None:
    shorter = WorldVoice.of(vowel).warped(1.25).sound()
    assert formant(shorter) == pytest.approx(1.25 * FORMANT_HERTZ, rel=0.06)
    assert pitch(shorter) == pytest.approx(PITCH_HERTZ, rel=0.02)


@needs_world
@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_time_scale_is_exact_and_keeps_pitch(vowel: np.ndarray, factor: float) -> None:
    sound = WorldVoice.of(vowel).stretched(factor).sound()
    assert len(sound) / len(vowel) == pytest.approx(factor, rel=0.02)
    assert pitch(sound) == pytest.approx(PITCH_HERTZ, rel=0.02)


@needs_world
def test_no_change_changes_nothing(vowel: np.ndarray) -> None:
    voice = WorldVoice.of(vowel)
    same = voice.with_pitch(1.0).warped(1.0).at(np.arange(len(voice)))
    np.testing.assert_allclose(same.envelope, voice.envelope, rtol=1e-9)
    np.testing.assert_allclose(same.hertz, voice.hertz, rtol=1e-9)


@needs_world
@pytest.mark.parametrize("samples", [np.zeros(8_000), np.random.default_rng(1).normal(0, 0.1, 8_000), np.zeros(400)])
def test_silence_noise_and_the_shortest_clip_give_finite_sound(samples: np.ndarray) -> None:
    voice = WorldVoice.of(samples.astype(np.float32))
    made = voice.warped(1.1).stretched(1.5).with_pitch(2.0).sound()
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= 1


@needs_world
def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(ClipError, match="one window"):
        WorldVoice.of(np.zeros(100, np.float32))
    with pytest.raises(ClipError, match="not finite"):
        WorldVoice.of(np.full(8_000, np.nan, np.float32))


def test_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, vowel: np.ndarray) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'moretta[world]'" in (missing_world() or "")
    with pytest.raises(StudyError, match=r"pip install 'moretta\[world\]'"):
        WorldVoice.of(vowel)


@pytest.mark.parametrize("factor", [0.7, 1.5, 2.0])
def test_bandwidths_grow_by_about_the_factor(factor: float) -> None:
    """Of one resonance at 1,500 Hz that is 90 Hz broad, whose width at half its power is measured."""
    hertz = np.arange(BINS) * SAMPLE_RATE / FFT_SAMPLES
    pole = np.exp((-np.pi * 90 + 2j * np.pi * 1_500) / SAMPLE_RATE)
    turned = np.exp(-2j * np.pi * hertz / SAMPLE_RATE)
    power = 1 / np.abs((1 - pole * turned) * (1 - np.conj(pole) * turned)) ** 2
    one = WorldVoice(np.full(4, 120.0), np.tile(power, (4, 1)), np.zeros((4, BINS)))
    made = one.with_bandwidths(factor).envelope[0]
    fine = np.interp(np.arange(1_000, 2_000), hertz, made)
    width = float((fine > fine.max() / 2).sum())
    assert width == pytest.approx(90 * factor, rel=0.3)
    np.testing.assert_allclose(one.with_bandwidths(1.0).envelope, one.envelope, rtol=1e-6)
