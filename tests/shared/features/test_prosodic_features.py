from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.core.errors import ClipError
from moretta.shared.core.labels import Emotion
from moretta.shared.features.prosodic_features import (
    HOP_OF_STEPS,
    MEASUREMENTS,
    STEP_SAMPLES,
    delivery,
    delivery_batch,
    pitch_track,
    speech_windows,
)
from moretta.shared.models.speech import make_voice, synthesize

VOICE = make_voice(3)


def said(emotion: Emotion = Emotion.NEU, seed: int = 1) -> np.ndarray:
    return synthesize(VOICE, emotion, "DFA", seed=seed)


def tone(hertz: float, seconds: float = 0.6) -> np.ndarray:
    time = np.arange(int(16_000 * seconds)) / 16_000
    return np.asarray(0.2 * sum(np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 2, 3)), np.float32)


def measurement(samples: np.ndarray, name: str) -> float:
    return float(delivery(samples)[MEASUREMENTS.index(name)])


@pytest.mark.parametrize("hertz", [85.0, 120.0, 220.0, 410.0])
def test_pitch_of_a_tone_is_found(hertz: float) -> None:
    track = pitch_track(tone(hertz))
    assert len(track.hertz) == 1 + int(16_000 * 0.6) // 160
    inner = track.hertz[5:-5]
    assert np.median(np.abs(inner / hertz - 1)) < 0.01
    assert track.clarity[5:-5].min() > 0.8


def test_noise_is_not_voiced() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    assert np.median(pitch_track(noise).clarity) < 0.4


def test_every_measurement_has_one_name_and_is_finite() -> None:
    assert len(set(MEASUREMENTS)) == len(MEASUREMENTS) == 95
    odd = [np.zeros(8_000), 0.5 * np.ones(900), np.random.default_rng(1).normal(size=4_000), tone(100, 0.1), said()]
    for row in delivery_batch([np.asarray(clip, np.float32) for clip in odd]):
        assert row.shape == (95,)
        assert np.isfinite(row).all()


def test_a_batch_measures_as_single_clips_do() -> None:
    clips = [said(seed=1), said(Emotion.ANG, seed=2)]
    for row, clip in zip(delivery_batch(clips), clips, strict=True):
        np.testing.assert_allclose(row, delivery(clip), atol=1e-3)


def test_louder_higher_and_faster_are_measured_as_such() -> None:
    plain = said()
    assert measurement(2 * plain, "level mean") == pytest.approx(measurement(plain, "level mean") + np.log(4), abs=0.01)
    assert measurement(tone(200), "pitch median") == pytest.approx(measurement(tone(100), "pitch median") + 1, abs=0.01)
    assert measurement(said(Emotion.FEA), "duration") < measurement(said(Emotion.SAD), "duration")


def test_what_is_no_clip_is_an_error() -> None:
    with pytest.raises(ClipError, match="samples"):
        delivery(np.zeros(20, np.float32))


def test_steps_cover_what_is_said_and_no_silence_around_it() -> None:
    quiet, loud = np.zeros(16_000, np.float32), tone(150, 2.6)
    steps = speech_windows(np.concatenate([quiet, loud, quiet]))
    assert len(steps) == 1 + (int(16_000 * 2.6) - STEP_SAMPLES) // HOP_OF_STEPS
    assert all(len(step) == STEP_SAMPLES for step in steps)
    assert all(np.abs(step).max() > 0.1 for step in steps)


@pytest.mark.parametrize("seconds", [0.1, 0.9, 1.0, 1.4])
def test_a_short_clip_is_one_step(seconds: float) -> None:
    (step,) = speech_windows(tone(150, seconds))
    assert len(step) == min(int(16_000 * seconds), STEP_SAMPLES)


def test_silence_has_steps_too() -> None:
    assert len(speech_windows(np.zeros(40_000, np.float32))) >= 1
