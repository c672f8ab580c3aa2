import numpy as np
import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.public_speech import PublicVoice, make_public_voice


@pytest.fixture(scope="module")
def public():
    return make_public_voice(13, 16, 1, voices=2)


def test_public_voice_survives_the_way_to_a_site(public):
    again = PublicVoice.from_arrays(public.to_arrays(), codebook=True)
    assert set(public.to_arrays()) == {"voice/mean", "voice/std", "voice/codebook"}
    for name, array in public.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)


def test_public_voice_is_made_of_its_seed(public):
    again, other = make_public_voice(13, 16, 1, voices=2), make_public_voice(13, 16, 2, voices=2)
    np.testing.assert_array_equal(again.codebook, public.codebook)
    assert not np.array_equal(other.mean, public.mean)


def test_size_and_coefficients_are_as_requested():
    public = make_public_voice(20, 32, 1, voices=1)
    assert (public.mean.shape, public.std.shape, public.codebook.shape) == ((20,), (20,), (32, 20))


def test_restore_undoes_standardise(public):
    frames = np.random.default_rng(1).normal(0, 9, (50, 13)).astype(np.float32)
    np.testing.assert_allclose(public.restore(public.standardise(frames)), frames, atol=1e-3)


def test_speech_at_any_recording_level_is_mostly_within_three_deviations(public):
    from moretta.shared.core.labels import Emotion
    from moretta.shared.models.speech import make_voice, synthesize

    speech = synthesize(make_voice(99), Emotion.NEU, "IEO", seed=5)
    for gain in (1.0, 0.1, 0.03):
        assert (np.abs(public.standardise(mfcc(gain * speech))) < 3).mean() > 0.95


def test_folder_of_speech_is_used_and_its_broken_files_passed_over(tmp_path):
    sound = (0.1 * np.random.default_rng(2).standard_normal(16_000)).astype(np.float32)
    (tmp_path / "sub").mkdir()
    write_wav(tmp_path / "sub" / "one.wav", sound)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    public = make_public_voice(13, 4, 1, tmp_path)
    np.testing.assert_allclose(public.mean, mfcc(sound).mean(axis=0), atol=0.2)


def test_folder_without_speech_is_a_study_error(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(StudyError, match="no usable speech"):
        make_public_voice(13, 4, 1, tmp_path)


def test_too_little_public_speech_for_the_codebook_is_a_study_error(tmp_path):
    write_wav(tmp_path / "one.wav", (0.1 * np.random.default_rng(2).standard_normal(8_000)).astype(np.float32))
    with pytest.raises(StudyError, match="51 frames"):
        make_public_voice(13, 64, 1, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"voice/std": np.zeros(13, np.float32)},
        {"voice/mean": np.zeros(12, np.float32)},
        {"voice/codebook": np.full((16, 13), np.nan, np.float32)},
        {"voice/codebook": np.zeros((0, 13), np.float32)},
    ],
)
def test_damaged_arrays_from_the_coordinator_are_refused(public, change):
    with pytest.raises(StudyError):
        PublicVoice.from_arrays(public.to_arrays() | change, codebook=True)


def test_missing_array_is_named():
    with pytest.raises(StudyError, match="voice/mean"):
        PublicVoice.from_arrays({})
