"""The map from an embedding to the sound of a voice, and a clip that is changed by it."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PlantedEncoder

from moretta.shared.core.errors import StudyError
from moretta.shared.features.world_voice import WorldVoice, missing_world
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.voice_driver import SHARES, WEIGHTS, Change, VoiceDriver, train_driver

WIDTH = PlantedEncoder.dimensions


@pytest.fixture(scope="module")
def driver() -> VoiceDriver:
    return train_driver(PlantedEncoder(), seed=1, voices=64)


def test_the_map_reads_voices_that_it_was_not_fitted_on(driver: VoiceDriver) -> None:
    """Statistics of MFCC show a high voice and a low one, whatever they say."""
    voices = [make_voice(9_000 + number) for number in range(16)]
    said = [synthesize(voice, "NEU", "IEO", seed=number) for number, voice in enumerate(voices)]
    values = PlantedEncoder().embed_many(said)
    read = np.log([driver.change(values[0], value).pitch for value in values])
    true = np.log([voice.pitch_hz / voices[0].pitch_hz for voice in voices])
    assert np.corrcoef(read, true)[0, 1] > 0.6
    assert driver.explained[0] > 0.4
    assert driver.stated()["pitch"] == pytest.approx(float(driver.explained[0]), abs=1e-3)


def test_the_same_embedding_changes_nothing_and_no_weights_break_speech(driver: VoiceDriver) -> None:
    one, other = np.random.default_rng(0).normal(size=(2, WIDTH))
    assert driver.change(one, one) == Change(1.0, 1.0, 1.0)
    for weight in (1e6, -1e6):
        wild = VoiceDriver(np.full((WIDTH, 3), weight, np.float32), driver.explained)
        pitch, formants, bandwidth = wild.change(np.zeros(WIDTH), np.ones(WIDTH))
        assert 0.5 <= pitch <= 2.0 and 0.75 < formants < 1.34 and 0.5 <= bandwidth <= 2.0
    assert np.isfinite(driver.change(one, np.full(WIDTH, np.nan))).all()
    assert driver.change(one, other) != driver.change(other, one)


@pytest.mark.skipif(missing_world() is not None, reason="install the extra world")
def test_a_change_moves_pitch_and_formants_as_it_says() -> None:
    clip = WorldVoice.of(synthesize(make_voice(3, sex="male"), "NEU", "IEO", seed=1))
    made = WorldVoice.of(Change(1.4, 1.2, 1.0).applied(clip).sound())
    ratio = np.median(made.hertz[made.hertz > 0]) / np.median(clip.hertz[clip.hertz > 0])
    assert ratio == pytest.approx(1.4, rel=0.05)
    assert centroid(made) > 1.05 * centroid(clip)


def centroid(voice: WorldVoice) -> float:
    """Mean bin of the envelope below 4 kHz, over voiced frames."""
    power = voice.envelope[voice.hertz > 0, :256].mean(axis=0)
    return float((power * np.arange(256)).sum() / power.sum())


def test_arrays_of_another_width_are_refused(driver: VoiceDriver) -> None:
    assert VoiceDriver.from_arrays(driver.to_arrays(), width=WIDTH).stated() == driver.stated()
    for wrong in ({WEIGHTS: driver.weights[:-1]}, {SHARES: np.full(3, np.nan, np.float32)}):
        with pytest.raises(StudyError):
            VoiceDriver.from_arrays({**driver.to_arrays(), **wrong}, width=WIDTH)
