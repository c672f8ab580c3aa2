"""Sentences and the places of their words: the same whatever came before, and none where none is said."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from moretta.shared.features.sentence_recognizer import SentenceRecognizer
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.speech.phonemes import SENTENCE_SOUNDS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None, reason="install the extra asr")


@pytest.fixture(scope="module")
def recognizer() -> SentenceRecognizer:
    return SentenceRecognizer.load()


def said(sentence: str, seed: int = 1) -> np.ndarray:
    return synthesize(make_voice(seed), "NEU", sentence, seed=seed)


def test_words_are_where_they_are_said(recognizer: SentenceRecognizer) -> None:
    clip = said("MTI", 2)
    here, later = recognizer.spoken(clip), recognizer.spoken(np.pad(clip, (8_000, 0)))
    assert here is not None and later is not None
    assert here.sentence == later.sentence == "MTI"
    assert len(here.words) == len(recognizer.words_of("MTI"))
    assert all(0 <= start < end <= 1 + len(clip) // 160 for start, end in here.words)
    moved = np.array(later.words) - np.array(here.words)
    assert np.abs(np.median(moved) - 50) <= 3


def test_what_came_before_changes_nothing(recognizer: SentenceRecognizer) -> None:
    clip = said("DFA", 2)
    first = recognizer.spoken(clip)
    recognizer.spoken(np.random.default_rng(1).normal(0, 0.2, 40_000).astype(np.float32))
    assert recognizer.spoken(clip) == first


def test_a_clip_that_ends_with_its_last_word_has_its_sentence(recognizer: SentenceRecognizer) -> None:
    clip = said("ITH", 3)
    loud = np.flatnonzero(np.abs(clip) > 0.02 * np.abs(clip).max())
    found = recognizer.spoken(clip[loud[0] : loud[-1]])
    assert found is not None and found.sentence == "ITH"


def test_no_sentence_is_found_where_none_is_said(recognizer: SentenceRecognizer) -> None:
    time = np.arange(32_000) / 16_000
    generator = np.random.default_rng(2)
    for sound in (
        np.zeros(32_000),
        np.zeros(400),
        generator.normal(0, 0.1, 32_000),
        generator.normal(0, 1e-3, 32_000),
        0.3 * np.sin(2 * np.pi * 220 * time),
        said("TAI")[::-1],
        said("WSI", 5)[::-1],
    ):
        assert recognizer.spoken(np.asarray(sound, np.float32)) is None


def test_another_sentence_is_not_taken_for_one_of_these(
    recognizer: SentenceRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dogs are sitting by the door, which one voice says so that the grammar alone would take it."""
    monkeypatch.setitem(SENTENCE_SOUNDS, "DOGS", "D AO G Z AA R S IH T IH NG B AY DH AX D AO R")
    assert all(recognizer.spoken(synthesize(make_voice(voice), "NEU", "DOGS", seed=1)) is None for voice in (2, 3, 42))
