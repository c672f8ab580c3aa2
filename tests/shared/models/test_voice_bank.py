"""The public voice: what it says can be understood, moves as it is wanted to, and comes from checked arrays alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.media import write_wav
from moretta.shared.features.prosodic_features import pitch_track
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.sentence_recognizer import SentenceRecognizer
from moretta.shared.features.speaker_code import PublicRows, SpeakerCode, public_rows, train_speaker_code
from moretta.shared.features.world_voice import missing_world
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.speech.make_voice_bank import bank_of, clearest_people, make_voice_bank, moves_of
from moretta.shared.models.speech.voice_bank import MOVED, VoiceBank, Word

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pocketsphinx") is None or missing_world() is not None, reason="install asr and world"
)
SENTENCES = ("DFA", "TAI")


@pytest.fixture(scope="module")
def rows() -> PublicRows:
    return public_rows(synthetic_speakers(1, voices=3, clips=8), in_windows=False)


@pytest.fixture(scope="module")
def code(rows: PublicRows) -> SpeakerCode:
    return train_speaker_code(rows, size=5, codebook_size=4, seed=1)


@pytest.fixture(scope="module")
def bank(rows: PublicRows, code: SpeakerCode) -> VoiceBank:
    voice, recognizer = make_voice(3, sex="female"), SentenceRecognizer.load()
    clips = [synthesize(voice, emotion, s, seed=n) for s in SENTENCES for n, emotion in enumerate(EMOTIONS[:4])]
    understood = [(said, clip) for clip in clips if (said := recognizer.spoken(clip))]
    assert len(understood) == len(clips)
    return VoiceBank.from_arrays(bank_of(understood, code, moves_of(rows, code)).to_arrays())


def pitch(sound: np.ndarray) -> float:
    track = pitch_track(sound)
    return float(np.median(np.log2(track.hertz[track.clarity > 0.6])))


def moving(bank: VoiceBank, name: str, by: float) -> np.ndarray:
    """A manner near the first recording's that moves one thing and as little else as can be."""
    wanted = np.zeros(len(MOVED))
    wanted[MOVED.index(name)] = by
    away = np.linalg.lstsq(bank.moves.T.astype(np.float64), wanted, rcond=None)[0]
    return np.asarray(bank.manners[0] + away, np.float64)


def only(bank: VoiceBank) -> VoiceBank:
    """Of one recording: no other one is nearer."""
    last, words = bank.recordings[0, 2], bank.words[bank.words[:, 0] == 0]
    parts = (bank.frames[:last], bank.recordings[:1], words, bank.manners[:1], bank.moves, bank.word_scale)
    return VoiceBank(*parts)


def test_every_sentence_of_the_bank_can_be_understood(bank: VoiceBank) -> None:
    recognizer = SentenceRecognizer.load()
    for sentence in SENTENCES:
        for manner in bank.manners[::2]:
            found = recognizer.spoken(bank.say(sentence, manner.astype(np.float64)))
            assert found is not None and found.sentence == sentence


def test_pitch_and_pace_move_as_far_as_the_manner_wants(bank: VoiceBank) -> None:
    one = only(bank)
    plain = one.say("DFA", one.manners[0].astype(np.float64))
    higher, slower = (one.say("DFA", moving(one, name, 0.25)) for name in ("pitch median", "duration"))
    assert pitch(higher) - pitch(plain) == pytest.approx(0.25, abs=0.06)
    assert np.log(len(slower) / len(plain)) == pytest.approx(0.25, abs=0.05)


def test_words_have_the_durations_that_are_wanted(bank: VoiceBank) -> None:
    manner = bank.manners[0].astype(np.float64)
    durations = bank.durations("DFA")
    words = [Word(float(2 * duration), 7.5, -8.0) for duration in durations]
    plain, long = bank.say("DFA", manner), bank.say("DFA", manner, words)
    assert (len(long) - len(plain)) / 160 == pytest.approx(durations.sum(), rel=0.2)
    assert pitch(long) == pytest.approx(7.5, abs=0.1)


def test_a_manner_beyond_all_is_still_speech(bank: VoiceBank) -> None:
    for away in (1e3, -1e3):
        sound = bank.say("TAI", np.full(5, away))
        assert np.isfinite(sound).all() and 8_000 < len(sound) < 80_000


def test_a_sentence_without_a_recording_is_refused(bank: VoiceBank) -> None:
    assert not bank.says("ITS")
    with pytest.raises(ClipError, match="public voice says"):
        bank.say("ITS", np.zeros(5))


def test_the_voice_is_of_the_person_whose_emotions_lie_apart(rows: PublicRows, code: SpeakerCode) -> None:
    mixed = rows.emotion.copy()
    generator = np.random.default_rng(1)
    best = rows.person[0]
    for mine in rows.groups()[1:]:
        mixed[mine] = generator.permutation(mixed[mine])
    assert clearest_people(rows._replace(emotion=mixed), code)[0] == best


def test_public_speech_without_the_sentences_is_an_error(rows: PublicRows, code: SpeakerCode, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for person in ("1001", "1002", "1003"):
        for emotion in ("ANG", "SAD"):
            write_wav(tmp_path / f"{person}_DFA_{emotion}_XX.wav", generator.normal(0, 0.1, 16_000).astype(np.float32))
    named = rows._replace(person=np.array([f"100{1 + int(one)}" for one in rows.person]))
    with pytest.raises(StudyError, match=r"nobody says.*leave it out"):
        make_voice_bank(named, code, tmp_path, 1)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_places_that_fit_nothing_are_refused(bank: VoiceBank, data: st.DataObject) -> None:
    arrays = {name: array.copy() for name, array in bank.to_arrays().items()}
    name = data.draw(st.sampled_from(["voice/spoken/words", "voice/spoken/recordings"]))
    row = data.draw(st.integers(0, len(arrays[name]) - 1))
    place = data.draw(st.sampled_from([1, 2]))
    arrays[name][row, place] = data.draw(st.sampled_from([len(bank.frames) + 1, 200_000]))
    with pytest.raises(StudyError, match="do not fit"):
        VoiceBank.from_arrays(arrays)


def test_words_of_no_recording_are_refused(bank: VoiceBank) -> None:
    """Each recording looks through all words: millions of them would take a site's hours."""
    arrays = bank.to_arrays()
    arrays["voice/spoken/words"] = np.vstack([bank.words, [[len(bank.recordings), 0, 1]]])
    with pytest.raises(StudyError, match="do not fit"):
        VoiceBank.from_arrays(arrays)


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_frames_of_any_allowed_value_give_finite_sound(bank: VoiceBank, value: float) -> None:
    arrays = {**bank.to_arrays(), "voice/spoken/frames": np.full_like(bank.frames, value)}
    arrays["voice/spoken/moves"] = np.full_like(bank.moves, value)
    sound = VoiceBank.from_arrays(arrays).say("DFA", np.ones(5))
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1


def test_a_recording_so_long_that_speaking_takes_gigabytes_is_refused(bank: VoiceBank) -> None:
    """One of 200,000 frames, which all arrays together may have, is such."""
    arrays = only(bank).to_arrays()
    longer = 1_001 - len(arrays["voice/spoken/frames"])
    arrays["voice/spoken/frames"] = np.pad(arrays["voice/spoken/frames"], ((0, longer), (0, 0)), mode="edge")
    arrays["voice/spoken/recordings"] = np.array([[bank.recordings[0, 0], 0, 1_001]])
    with pytest.raises(StudyError, match=r"do not fit.*up to 1000 frames"):
        VoiceBank.from_arrays(arrays)
    arrays["voice/spoken/frames"] = arrays["voice/spoken/frames"][:-1]
    arrays["voice/spoken/recordings"] = np.array([[bank.recordings[0, 0], 0, 1_000]])
    assert len(VoiceBank.from_arrays(arrays).say("DFA", np.full(5, 1e3))) < 16_000 * 15
