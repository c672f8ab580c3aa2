"""`public-voice`: a release has the sentence and the noisy manner of a clip in it, and nothing else of the clip."""

from __future__ import annotations

import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers.public_voice import SpokenByPublicVoice
from moretta.client.anonymizers.speaker_references import forget_speaker
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.sentence_recognizer import SentenceRecognizer
from moretta.shared.features.speaker_code import public_rows, train_speaker_code
from moretta.shared.features.world_voice import missing_world
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.speech.make_voice_bank import bank_of, moves_of
from moretta.shared.privacy.mechanism import Unbounded
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

needs_extras = pytest.mark.skipif(
    importlib.util.find_spec("pocketsphinx") is None or missing_world() is not None, reason="install asr and world"
)
Clips = list[tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    rows = public_rows(synthetic_speakers(1, voices=3, clips=8), in_windows=False)
    code = train_speaker_code(rows, size=5, codebook_size=4, seed=1)
    clips = [synthesize(make_voice(3), e, s, seed=n) for s in ("DFA", "TAI") for n, e in enumerate(EMOTIONS[:4])]
    understood = [(said, clip) for clip in clips if (said := SentenceRecognizer.load().spoken(clip))]
    return {**code.to_arrays(), **bank_of(understood, code, moves_of(rows, code)).to_arrays()}


@pytest.fixture(scope="module")
def spoken() -> Clips:
    """Four clips of each of two people that are recognised, two of each sentence, in several emotions."""
    found: Clips = []
    for person, sentence in ((42, "DFA"), (42, "TAI"), (44, "DFA"), (44, "TAI")):
        said = (synthesize(make_voice(person), e, sentence, seed=n) for n, e in enumerate(EMOTIONS))
        understood = (clip for clip in said if SentenceRecognizer.load().spoken(clip))
        found += [(str(person), clip) for clip in islice(understood, 2)]
    assert len(found) == 8
    return found


def build(arrays: dict[str, Any], **options: Any) -> SpokenByPublicVoice:
    study = Study().with_changes(voice={"anonymizer": "public-voice", "options": options})
    made = get_anonymizer("voice", "public-voice").from_study(study, arrays)
    assert isinstance(made, SpokenByPublicVoice)
    return made


def released(made: SpokenByPublicVoice, clips: Clips, seed: int = 1) -> list[Any]:
    made.fit(clips, SeededNoise(1, "fit"))
    noise = [SeededNoise(seed, index) for index in range(len(clips))]
    return made.release([clip for _, clip in clips], noise, [speaker for speaker, _ in clips])


@needs_extras
@pytest.mark.parametrize("prosody", ["clip", "words"])
def test_a_release_says_the_sentence_of_its_clip(arrays: Any, spoken: Clips, prosody: str) -> None:
    recognizer, right = SentenceRecognizer.load(), 0
    for (_, clip), sound in zip(spoken, released(build(arrays, prosody=prosody), spoken), strict=True):
        check_array("voice", "waveform", sound)
        said, found = recognizer.spoken(clip), recognizer.spoken(sound)
        right += said is not None and found is not None and found.sentence == said.sentence
    assert right >= len(spoken) - 1


@needs_extras
def test_nothing_but_sentence_and_manner_is_in_a_release(
    arrays: Any, spoken: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people, any emotion, level and pace: where the manner is the same, so is every sample."""
    made = build(arrays)
    monkeypatch.setattr(made._codes, "noisy", lambda *_, **__: np.full((1, 5), 0.3))
    sounds = released(made, spoken)
    assert len({sound.tobytes() for sound in sounds}) == len({len(sound) for sound in sounds}) == 2
    for sound in (sounds[1], sounds[4], sounds[5]):
        np.testing.assert_array_equal(sound, sounds[0])


@needs_extras
def test_noise_is_the_clips_own(arrays: Any, spoken: Clips) -> None:
    mine = spoken[:4]
    first, same, other = (released(build(arrays), mine, seed) for seed in (1, 1, 2))
    for one, again, different in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(one, again)
        assert len(one) != len(different) or not np.array_equal(one, different)


@needs_extras
def test_words_lie_on_the_grid_and_move_with_their_noise(arrays: Any, spoken: Clips) -> None:
    made = build(arrays, prosody="words", duration_grid_ms=100)
    made.fit(spoken, SeededNoise(1, "fit"))
    speaker, clip = spoken[0]
    said = SentenceRecognizer.load().spoken(clip)
    assert said is not None
    first, second = (made._words.noisy(clip, said, SeededNoise(seed), speaker) for seed in (1, 2))
    for word in (*first, *second):
        assert word.duration >= 10 and word.duration % 10 == 0
    assert max(abs(one.pitch - other.pitch) for one, other in zip(first, second, strict=True)) > 0.01


@needs_extras
@pytest.mark.parametrize("scale", [[1e4, 0.5e-3], [-1e4, 0.5e-3], [0.0, 1e4]])
def test_no_scale_of_words_makes_speech_of_hours_or_drops_a_clip(
    arrays: Any, spoken: Clips, scale: list[float]
) -> None:
    hostile = {**arrays, "voice/spoken/word_scale": np.repeat(np.array(scale, np.float32)[:, None], 3, axis=1)}
    for sound in released(build(hostile, prosody="words"), spoken[:2]):
        assert isinstance(sound, np.ndarray) and np.isfinite(sound).all() and len(sound) < 16_000 * 60


@needs_extras
def test_what_has_no_sentence_is_dropped_and_counted(arrays: Any, spoken: Clips) -> None:
    generator = np.random.default_rng(1)
    bad = [np.zeros(32_000), generator.normal(0, 0.1, 32_000), spoken[1][1][::-1]]
    clips = [*spoken[:3], *((spoken[0][0], sound.astype(np.float32)) for sound in bad)]
    made = build(arrays)
    out = released(made, clips)
    assert all(isinstance(sound, np.ndarray) for sound in out[:3])
    assert [error.reason for error in out[3:]] == ["no-sentence"] * 3
    assert made.counts() == {"clips_without_sentence": 3}
    short, other, stranger = made.release(
        [np.zeros(100, np.float32), synthesize(make_voice(42), "NEU", "ITS", seed=2), spoken[0][1]],
        [SeededNoise(1)] * 3,
        [spoken[0][0], spoken[0][0], "somebody else"],
    )
    reasons = [error.reason for error in (short, other, stranger) if isinstance(error, ClipError)]
    assert reasons == ["too-short", "unknown-sentence", "unknown-speaker"]


@needs_extras
def test_secrets_are_kept_for_their_owner_and_forgotten_with_a_person(
    arrays: Any, spoken: Clips, tmp_path: Path
) -> None:
    made = build(arrays, prosody="words")
    made.keep_in(tmp_path)
    made.fit(spoken, SeededNoise(1, "fit"))
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["public-voice-words.safetensors", "public-voice.safetensors"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert forget_speaker(tmp_path, "42") == 2
    assert forget_speaker(tmp_path, "42") == 0


@needs_extras
def test_a_code_of_another_size_is_refused(arrays: Any) -> None:
    with pytest.raises(StudyError, match="of 5 values"):
        build(arrays, code_size=4)


def test_it_guarantees_nothing_and_says_how_strong_it_is() -> None:
    study = Study().with_changes(voice={"anonymizer": "public-voice", "options": {"prosody": "words"}})
    kind = get_anonymizer("voice", "public-voice")
    assert study.voice.form == "waveform"
    losses = kind.planned_losses(study, {"a": [100, 200]})
    assert all(isinstance(loss, Unbounded) for own in losses.values() for loss in own)
    assert kind.strength(study) == {"code_size": 5.0, "code_noise": 0.5, "word_noise": 1.0}
    assert kind.is_fitted(study)


@pytest.mark.parametrize(("absent", "extra"), [("pocketsphinx", "asr"), ("pyworld", "world")])
def test_a_missing_extra_is_an_error_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, absent: str, extra: str
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else there("json"))
    study, kind = Study().with_changes(voice={"anonymizer": "public-voice"}), get_anonymizer("voice", "public-voice")
    assert f"pip install 'moretta[{extra}]'" in (kind.missing(study) or "")
    with pytest.raises(StudyError, match=rf"pip install 'moretta\[{extra}\]'"):
        kind.prepare_public(study, lambda text: None)
