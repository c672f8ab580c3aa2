from __future__ import annotations

import time

import numpy as np
import pytest

from moretta.shared.errors import StudyError
from moretta.shared.features.code_voice import CONTROLS, CodeVoice, learn_code_voice, steps_of
from moretta.shared.features.delivery import MEASUREMENTS, delivery
from moretta.shared.features.public_people import synthetic_people
from moretta.shared.features.speaker_code import CODE_LIMIT, learn_speaker_code, public_rows
from moretta.shared.release.format import MAX_SAMPLES, check_array

NAMES = [control.name for control in CONTROLS]


@pytest.fixture(scope="module")
def voice() -> CodeVoice:
    rows = public_rows(synthetic_people(1, voices=4, clips=12), in_steps=True)
    return learn_code_voice(rows, learn_speaker_code(rows, size=5, codebook_size=16, seed=1))


def one_control(name: str, weight: float) -> CodeVoice:
    """A voice of codes of one value, which moves one measurement alone."""
    weights = np.zeros((1, len(CONTROLS)), np.float32)
    weights[0, NAMES.index(name)] = weight
    return CodeVoice(weights)


def heard(voice: CodeVoice, codes: np.ndarray, name: str) -> float:
    return float(delivery(voice(codes))[MEASUREMENTS.index(name)])


def test_the_same_codes_are_the_same_sound_and_others_another(voice: CodeVoice) -> None:
    codes = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    first = voice(codes)
    np.testing.assert_array_equal(first, CodeVoice(voice.weights.copy())(codes.copy()))
    assert not np.array_equal(first, voice(codes + 0.1))


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_any_codes_are_sound_that_keeps_the_format_and_tells_how_many_they_are(voice: CodeVoice, steps: int) -> None:
    for size in (0.0, 1.0, 50.0):
        sound = voice(size * np.random.default_rng(steps).normal(size=(steps, 5)))
        check_array("voice", "waveform", sound)
        assert len(sound) == 8_000 * (steps + 1) and steps_of(sound) == steps
        assert 0.003 < np.sqrt(np.mean(np.square(sound))) < 0.3


def test_the_longest_clip_has_a_sound(voice: CodeVoice) -> None:
    assert len(voice(np.zeros((MAX_SAMPLES // 8_000 - 1, 5)))) <= MAX_SAMPLES


@pytest.mark.parametrize(
    ("name", "weight", "tolerance"),
    [("pitch median", 0.5, 0.1), ("level mean", 1.5, 0.2), ("level deviation", 0.3, 0.1), ("peaks a second", 1.5, 0.4)],
)
def test_the_sound_does_what_the_codes_say(name: str, weight: float, tolerance: float) -> None:
    """Measured on the sound as on any clip, relative to the sound of zeros."""
    voice, codes = one_control(name, weight), np.ones((6, 1))
    for sign in (1, -1):
        moved = heard(voice, sign * codes, name) - heard(voice, 0 * codes, name)
        assert moved == pytest.approx(sign * weight, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("band", "clarity", "pitch d", "pitch u"))])
def test_colour_breath_liveliness_and_roughness_follow_too(name: str) -> None:
    home = next(control for control in CONTROLS if control.name == name)
    voice, codes = one_control(name, (home.high - home.home) / 3), np.ones((6, 1))
    assert heard(voice, -codes, name) < heard(voice, codes, name)


def test_steps_follow_one_another_smoothly() -> None:
    """From a low second to a high one the pitch glides, but for the odd octave error of the measurement."""
    from moretta.shared.features.pitch import pitch_track

    track = pitch_track(one_control("pitch median", 0.5)(np.array([[-1.0], [-1.0], [1.0], [1.0]])))
    octaves = np.log2(track.hertz[10:-10])
    assert octaves[:60].mean() < octaves[-60:].mean() - 0.7
    assert np.percentile(np.abs(np.diff(octaves)), 90) < 0.1


def test_codes_are_heard_within_what_codes_can_be(voice: CodeVoice) -> None:
    far, edge = np.full((2, 5), 100.0), np.full((2, 5), CODE_LIMIT)
    np.testing.assert_array_equal(voice(far), voice(edge))


def test_a_second_is_made_in_less_than_a_hundredth_of_one(voice: CodeVoice) -> None:
    codes = np.random.default_rng(1).normal(size=(60, 5))
    voice(codes)
    start = time.process_time()
    sound = voice(codes)
    assert len(sound) / 16_000 / (time.process_time() - start) > 100


def test_what_is_sent_is_what_was_learnt_and_what_cannot_be_is_refused(voice: CodeVoice) -> None:
    arrays = voice.to_arrays()
    np.testing.assert_array_equal(CodeVoice.from_arrays(arrays, 5).weights, voice.weights)
    (name,) = arrays
    for bad in (np.zeros((5, 3)), np.full((5, len(CONTROLS)), np.nan), np.full((5, len(CONTROLS)), 1e6)):
        with pytest.raises(StudyError, match="public voice"):
            CodeVoice.from_arrays({name: bad}, 5)
    with pytest.raises(StudyError, match="public voice arrays without"):
        CodeVoice.from_arrays({}, 5)
    with pytest.raises(StudyError, match="public voice"):
        CodeVoice.from_arrays(arrays, 6)
