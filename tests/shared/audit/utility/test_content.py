"""Meters of what can still be understood: true on speech whose words are known, invalid where they cannot work."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from speakers import codes

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility.content import METERS, MOST_CLIPS, NO_SOUND, PARALLEL_METERS, MeterInput, sampled
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.audit.utility.kept_speech import compared, distortion, guessed_errors, word_errors
from moretta.shared.data.corpora.cremad import SENTENCES
from moretta.shared.features import sentence_recognizer
from moretta.shared.features.sentence_recognizer import SentenceRecognizer, known_texts
from moretta.shared.features.world_voice import WorldVoice, missing_world
from moretta.shared.models.speech.parallel import Utterance, drawn_voices, parallel_speech
from moretta.shared.models.speech.synthesize import synthesize
from moretta.shared.release.release_format import ReleasedClip
from moretta.shared.study.schema import Study

needs_asr = pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None, reason="install the extra asr")
needs_world = pytest.mark.skipif(missing_world() is not None, reason="install the extra world")
SAID = ("IEO", "DFA", "MTI", "WSI")
TEXT = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@given(TEXT, TEXT, TEXT)
def test_word_errors_are_a_distance(one: list[str], two: list[str], three: list[str]) -> None:
    assert word_errors(one, one) == 0
    assert word_errors(one, two) == word_errors(two, one)
    assert word_errors(one, three) <= word_errors(one, two) + word_errors(two, three)
    assert abs(len(one) - len(two)) <= word_errors(one, two) <= max(len(one), len(two))


def test_guessing_among_the_sentences_that_occur_has_the_rate_that_counting_gives() -> None:
    assert guessed_errors([("a", "b"), ("a", "c")]) == pytest.approx((0 + 1 + 1 + 0) / 2 / 4)
    assert guessed_errors([("a", "b")]) == 0.0


@pytest.fixture(scope="module")
def speech() -> ClipSet:
    """Four synthetic voices, each saying four sentences."""
    clips, sounds = [], []
    for person, voice in enumerate(drawn_voices(4, 3)):
        for number, code in enumerate(SAID):
            name = f"{person * 100 + number:016x}"
            clips.append(ReleasedClip(clip=name, speaker=f"{person:016x}", emotion="NEU", sentence=code, level=""))
            sounds.append(synthesize(voice, "NEU", code, seed=number))
    return ClipSet.from_arrays(clips, sounds, modality="voice", form="waveform")


def _changed(speech: ClipSet, change: object) -> ClipSet:
    sounds = [change(speech.waveform(i), i) for i in range(len(speech))]  # type: ignore[operator]
    return ClipSet.from_arrays(speech.clips, sounds, modality="voice", form="waveform")


def _measured(meter: str, original: ClipSet | None, released: ClipSet) -> dict[tuple[str, str], Result]:
    sets = {"released": released} if original is None else {"original": original, "released": released}
    rows = METERS[meter](MeterInput(sets, seed=1, draws=50))  # type: ignore[arg-type]
    return {(row.scenario, row.metric): row for row in rows}


def _noise(samples: np.ndarray, index: int) -> np.ndarray:
    return np.clip(0.3 * np.random.default_rng(index).normal(size=len(samples)), -1, 1).astype(np.float32)


@needs_asr
def test_words_are_recognised_in_speech_and_not_in_noise(speech: ClipSet) -> None:
    found = _measured("words", speech, _changed(speech, _noise))
    before, after = found["unprotected", "wer"], found["ignorant", "wer"]
    assert before.value is not None and before.value < 0.15
    assert after.value is not None and before.chance is not None and after.value > 0.8 * before.chance
    assert not before.invalid and not after.invalid
    assert before.low is not None and before.high is not None and before.low <= before.value <= before.high
    right = found["unprotected", "sentence_accuracy"]
    assert right.value is not None and right.value > 0.8 and right.chance == pytest.approx(1 / 12)


@needs_asr
def test_a_swapped_sentence_is_an_error_although_it_is_well_spoken(speech: ClipSet) -> None:
    swapped = _changed(speech, lambda samples, index: speech.waveform(index ^ 1))
    assert _measured("words", speech, swapped)["ignorant", "sentence_accuracy"].value == 0.0


KIDS, DOGS = "Kids are talking by the door.", "Dogs are sitting by the door"


def test_sentences_are_those_of_the_corpus_that_has_all_codes_or_those_that_were_stated() -> None:
    assert known_texts({"IEO"})["TIE"] == "That is exactly what happened."
    assert known_texts({"speech-01", "song-02"})["speech-02"] == "Dogs are sitting by the door."
    assert known_texts({"IEO", "speech-01"}) == {}
    assert known_texts({"IEO"}, {"IEO": KIDS}) == {"IEO": KIDS}
    assert "MTI" in str(SentenceRecognizer.missing({"IEO", "MTI"}, {"IEO": KIDS}))
    assert Study.model_validate({"audit": {"sentences": {"IEO": KIDS}}}).audit.sentences == {"IEO": KIDS}
    for text in ("", "1 dog", "kids; grammar <x>", "dogs | cats"):  # a grammar is made of them
        with pytest.raises(ValidationError):
            Study.model_validate({"audit": {"sentences": {"IEO": text}}})


@needs_asr
def test_words_are_measured_against_the_sentences_that_a_study_states(speech: ClipSet) -> None:
    """The sentences are CREMA-D's, under other codes: each once with the right text, once with that of another."""
    names = dict(zip(SAID, ("kids", "dogs", "cats", "sun"), strict=True))
    clips = [clip.model_copy(update={"sentence": names[clip.sentence]}) for clip in speech.clips]
    other = ClipSet.from_arrays(
        clips, [speech.waveform(i) for i in range(len(clips))], modality="voice", form="waveform"
    )
    right = {names[code]: SENTENCES[code] for code in SAID}
    moved = dict(zip(right, [*list(right.values())[1:], next(iter(right.values()))], strict=True))

    def wer(texts: dict[str, str]) -> Result:
        rows = METERS["words"](MeterInput({"original": other, "released": other}, 1, 50, texts))
        return next(row for row in rows if (row.scenario, row.metric) == ("ignorant", "wer"))

    assert wer(right).value == pytest.approx(0.0, abs=0.15) and not wer(right).invalid
    assert wer(moved).invalid and "originals wrong" in wer(moved).reason
    assert "kids" in wer({}).reason
    assert "xyzzyq" in wer(dict.fromkeys(right, "xyzzyq")).reason


@needs_asr
def test_where_originals_are_not_understood_no_figure_of_releases_counts(speech: ClipSet) -> None:
    found = _measured("words", _changed(speech, _noise), speech)
    assert found["ignorant", "wer"].invalid and "words of originals wrong" in found["ignorant", "wer"].reason


def test_codes_and_unknown_sentences_and_an_absent_recogniser_are_named(
    speech: ClipSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = codes(speakers=4, clips=4)
    if SentenceRecognizer.missing(SAID) is None:
        reason = _measured("words", None, made)["ignorant", "wer"].reason
        assert reason == NO_SOUND
    assert _measured("prosody", made, made)["ignorant", "pitch_correlation"].reason == NO_SOUND
    other = speech.clips[0].model_copy(update={"sentence": "XYZ"})
    unknown = ClipSet.from_arrays([other], [speech.waveform(0)], modality="voice", form="waveform")
    assert "XYZ" in _measured("words", None, unknown)["ignorant", "wer"].reason
    monkeypatch.setattr(sentence_recognizer.importlib.util, "find_spec", lambda name: None)
    row = _measured("words", None, speech)["ignorant", "wer"]
    assert row.invalid and "moretta[asr]" in row.reason


def test_melody_and_pace_of_the_same_clip_are_whole_and_of_another_are_not(speech: ClipSet) -> None:
    one, other = speech.waveform(0), speech.waveform(5)
    related, cents, ratio = compared(one, one)
    assert (round(related, 6), cents, ratio) == (1.0, 0.0, 1.0)
    assert compared(one, other)[0] < 0.7
    assert compared(one, np.repeat(one, 2))[2] == pytest.approx(2.0)
    assert np.isnan(compared(one, _noise(one, 0))[0])


def test_prosody_of_noise_has_no_figure_and_of_quieter_speech_a_full_one(speech: ClipSet) -> None:
    quiet = _measured("prosody", speech, _changed(speech, lambda samples, _: 0.5 * samples))
    assert quiet["ignorant", "pitch_correlation"].value == pytest.approx(1.0, abs=1e-3)
    noise = _measured("prosody", speech, _changed(speech, _noise))
    assert noise["ignorant", "pitch_correlation"].invalid
    assert noise["ignorant", "duration_ratio"].value == 1.0


def _paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Every path from the first pair of frames to the last, by one frame in either or in both."""
    if (rows, columns) == (1, 1):
        yield [(0, 0)]
    for r, c in ((rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)):
        if r and c:
            yield from ([*path, (rows - 1, columns - 1)] for path in _paths(r, c))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
def test_distortion_is_the_formula_over_the_best_of_all_paths(seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    sounds = generator.normal(size=(3, 7))  # few, so that frames repeat, and paths bend both ways
    one, two = (sounds[generator.integers(3, size=n)] + 0.1 * generator.normal(size=(n, 7)) for n in (rows, columns))
    sums = []
    for path in _paths(len(one), len(two)):
        apart = [math.sqrt(sum((one[i][d] - two[j][d]) ** 2 for d in range(1, 7))) for i, j in path]
        sums.append((sum(apart), 10 / math.log(10) * sum(apart) / len(path)))
    assert distortion(one, two) == pytest.approx(min(sums)[1])


def test_distortion_of_amplitude_cepstra_is_as_published() -> None:
    """Kubichek's formula, on a cosine series of the log amplitude, and the spectra's own difference in decibels."""
    series = np.random.default_rng(4).normal(size=(2, 7))
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    decibels = [20 / math.log(10) * sum(c * np.cos(d * angles) for d, c in enumerate(s) if d) for s in series]
    published = 10 / math.log(10) * math.sqrt(2 * sum((series[0] - series[1])[1:] ** 2))
    assert np.sqrt(np.mean((decibels[0] - decibels[1]) ** 2)) == pytest.approx(published, rel=1e-3)
    assert distortion(*(s[None] * math.sqrt(2) for s in series)) == pytest.approx(published)


@needs_world
def test_the_same_recording_has_no_distortion_at_any_loudness_and_another_voice_much(tmp_path: Path) -> None:
    sounds, truths = [], []
    for seed, code in enumerate(SAID):
        wanted, other = parallel_speech(Utterance(sentence=code, emotion=4, seed=seed), drawn_voices(2, 5))
        truths.append(wanted)
        sounds.append((0.5 * wanted, WorldVoice.of(wanted).sound(), other))
    clips = [
        ReleasedClip(clip=f"{n:016x}", speaker=f"{n % 2:016x}", emotion="NEU", sentence=code, level="")
        for n, code in enumerate(SAID)
    ]

    def made(arrays: list[np.ndarray]) -> ClipSet:
        return ClipSet.from_arrays(clips, arrays, modality="voice", form="waveform")

    same, again, other = (made([sound[k] for sound in sounds]) for k in range(3))
    how = {"seed": 1, "draws": 20, "workers": 1, "scratch": tmp_path}
    rows = [r for r in evaluate_utility(other, same, truth=made(truths), **how) if r.target == "distortion"]
    rows += PARALLEL_METERS["distortion"](MeterInput({"original": other, "released": again}, 1, 20, truth=made(truths)))
    before, quieter, before_again, vocoded = (row.value for row in rows)
    assert before is not None and vocoded is not None
    assert quieter == pytest.approx(0.0, abs=0.05)
    assert before == before_again and before > 5.0
    assert 1.0 < vocoded < 0.7 * before  # a vocoder is measurable, another voice is farther
    assert [row.scenario for row in rows] == ["unprotected", "ignorant"] * 2
    few = MeterInput({"released": codes(speakers=4, clips=4)}, 1, 10, truth=made(truths))
    assert "parallel speech" in PARALLEL_METERS["distortion"](few)[0].reason


def test_sentences_are_separated_where_codes_have_them_and_not_where_they_have_none() -> None:
    empty = codes(speakers=8, clips=12, apart=0.0)
    none = _measured("sentence", None, empty)["semi-informed", "sentence_accuracy"]
    assert none.value is not None and none.chance is not None and none.high is not None
    assert none.value < none.chance + 0.15
    separate = ClipSet.from_arrays(
        empty.clips,
        [np.eye(4, 6, dtype=np.float32)[("DFA", "IOM", "ITH", "TIE").index(c.sentence)] for c in empty.clips],
        modality="voice",
        form="code",
    )
    full = _measured("sentence", None, separate)["semi-informed", "sentence_accuracy"]
    assert full.value == 1.0


def test_few_clips_are_taken_evenly_of_all_people() -> None:
    many = codes(speakers=7, clips=12)
    few = sampled(many)
    counts = [sum(clip.speaker == speaker for clip in few.clips) for speaker in few.speakers]
    assert len(few) == MOST_CLIPS and len(counts) == 7 and max(counts) - min(counts) <= 1
    by_sentence = many.subset(sorted(range(len(many)), key=lambda row: many.clips[row].sentence))
    assert {clip.clip for clip in sampled(by_sentence).clips} == {clip.clip for clip in few.clips}


def test_meters_follow_the_evaluators_of_emotion(speech: ClipSet, tmp_path: Path) -> None:
    rows = evaluate_utility(speech, speech, seed=1, draws=10, workers=1, scratch=tmp_path)
    assert list(dict.fromkeys(row.target for row in rows)) == ["emotion", *METERS]
    named = evaluate_utility(
        speech, speech, evaluators=["voice-logistic"], seed=1, draws=10, workers=1, scratch=tmp_path / "again"
    )
    assert {row.target for row in named} == {"emotion"}
