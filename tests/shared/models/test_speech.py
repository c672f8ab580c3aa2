import numpy as np
import pytest

from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.data.corpora.cremad import SENTENCES
from moretta.shared.models.speech import Voice, make_voice, synthesize
from moretta.shared.models.speech.phonemes import DIPHTHONGS, FRICATIVES, SENTENCE_SOUNDS, SONORANTS, STOPS, VOWELS


def pitch_hz(samples: np.ndarray) -> float:
    """Median of the autocorrelation peak over loud frames of 40 ms."""
    found = []
    for frame in samples[: len(samples) // 640 * 640].reshape(-1, 640):
        if np.sqrt(np.mean(frame**2)) < 0.5 * np.sqrt(np.mean(samples**2)):
            continue
        correlation = np.correlate(frame, frame, "full")[639:]
        found.append(16_000 / (40 + int(correlation[40:228].argmax())))
    return float(np.median(found))


def test_every_sentence_of_the_corpus_is_spelled_in_known_sounds() -> None:
    known = VOWELS.keys() | DIPHTHONGS.keys() | SONORANTS.keys() | FRICATIVES.keys() | STOPS.keys()
    assert SENTENCE_SOUNDS.keys() == SENTENCES.keys()
    assert {sound for sounds in SENTENCE_SOUNDS.values() for sound in sounds.split()} <= known


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_clip_is_a_plausible_recording(emotion: Emotion) -> None:
    samples = synthesize(make_voice(1), emotion, "TIE", seed=2)
    assert samples.dtype == np.float32 and np.isfinite(samples).all()
    assert 0.8 < len(samples) / 16_000 < 5
    assert np.abs(samples).max() < 1
    assert 0.005 < np.sqrt(np.mean(samples**2)) < 0.3


def test_the_same_seed_gives_the_same_samples_and_another_does_not() -> None:
    first, again = (synthesize(make_voice(7), Emotion.FEA, "IEO", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = synthesize(make_voice(7), Emotion.FEA, "IEO", seed=4)
    assert len(other) != len(first) or not np.array_equal(first, other)


def test_women_speak_higher_than_men_and_fear_higher_than_sadness() -> None:
    def mean_pitch(sex: str, emotion: Emotion) -> float:
        voices = [make_voice(seed, sex=sex) for seed in range(6)]
        return float(np.mean([pitch_hz(synthesize(voice, emotion, "IOM", seed=0)) for voice in voices]))

    assert mean_pitch("female", Emotion.NEU) > 1.3 * mean_pitch("male", Emotion.NEU)
    assert mean_pitch("male", Emotion.FEA) > 1.3 * mean_pitch("male", Emotion.SAD)


def test_at_no_intensity_every_emotion_is_neutral() -> None:
    voice = make_voice(5)
    neutral = synthesize(voice, Emotion.NEU, "DFA", seed=1)
    np.testing.assert_allclose(synthesize(voice, Emotion.ANG, "DFA", intensity=0, seed=1), neutral, atol=1e-6)


def test_sex_is_drawn_when_not_given_and_refused_when_unknown() -> None:
    assert {make_voice(seed).sex for seed in range(20)} == {"female", "male"}
    with pytest.raises(ValueError, match="female"):
        make_voice(1, sex="other")


def test_no_spread_leaves_one_pitch_for_each_sex() -> None:
    def pitches(spread: float) -> set[float]:
        voices: list[Voice] = [make_voice(seed, sex="male", spread=spread) for seed in range(5)]
        return {voice.pitch_hz for voice in voices}

    assert pitches(0.0) == {115.0} and len(pitches(1.6)) == 5


def test_emotions_are_distinguished_on_unseen_voices() -> None:
    """The promise of the corpus: a linear probe on log spectra of unseen speakers is far above chance (1/6)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(samples: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::256] * np.hanning(512)
        power = np.abs(np.fft.rfft(frames)[:, 1:]) ** 2
        bands = np.log(power.reshape(len(frames), 32, 8).mean(2) + 1e-8)
        return np.concatenate([bands.mean(0), bands.std(0)])

    sounds = [
        (speaker, EMOTIONS.index(emotion), features(synthesize(make_voice(speaker), emotion, sentence, seed=speaker)))
        for speaker in range(16)
        for emotion in EMOTIONS
        for sentence in ("IEO", "TSI")
    ]
    speakers, labels, vectors = (np.array(column) for column in zip(*sounds, strict=True))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(vectors[speakers < 10], labels[speakers < 10])
    assert probe.score(vectors[speakers >= 10], labels[speakers >= 10]) > 0.35
