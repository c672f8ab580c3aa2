import numpy as np
import pytest

from moretta.shared.core.errors import ReleaseError
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.voice_forms import as_mfcc, as_sequence, as_waveform, frame_count, model_input

CODEBOOK = np.random.default_rng(1).normal(0, 3, (8, 13)).astype(np.float32)
TOKENS = np.random.default_rng(2).integers(0, 8, 60).astype(np.int32)
WAVEFORM = (0.1 * np.random.default_rng(3).standard_normal(8000)).astype(np.float32)


def test_every_form_gives_mfcc_and_sound():
    for form, array in (("tokens", TOKENS), ("mfcc", CODEBOOK[TOKENS]), ("waveform", WAVEFORM)):
        frames, sound = as_mfcc(form, array, CODEBOOK), as_waveform(form, array, CODEBOOK)
        assert frames.dtype == sound.dtype == np.float32
        assert frames.shape == (frame_count(form, array), 13)
        assert frame_count("waveform", sound) == len(frames)


def test_tokens_are_looked_up_and_waveforms_kept():
    np.testing.assert_array_equal(as_mfcc("tokens", TOKENS, CODEBOOK), CODEBOOK[TOKENS])
    np.testing.assert_array_equal(as_waveform("waveform", WAVEFORM), WAVEFORM)
    np.testing.assert_array_equal(as_mfcc("waveform", WAVEFORM, coefficients=20), mfcc(WAVEFORM, 20))


@pytest.mark.parametrize(
    ("form", "array", "codebook"),
    [
        ("tokens", TOKENS, None),
        ("tokens", TOKENS + 1, CODEBOOK),
        ("tokens", TOKENS - 8, CODEBOOK),
        ("frames", TOKENS, CODEBOOK),
    ],
)
def test_what_cannot_be_read_is_refused(form, array, codebook):
    with pytest.raises(ReleaseError):
        as_mfcc(form, array, codebook)
    with pytest.raises(ReleaseError):
        as_waveform(form, array, codebook)


CODE = np.array([1.0, -2.0, 3.0], np.float32)
CODES = {"code": CODE, "code-sequence": np.stack([CODE, 2 * CODE]), "code-tokens": np.array([1, 0], np.int32)}


def test_codes_are_sequences_of_their_own_vectors_and_mfcc_of_theirs():
    np.testing.assert_array_equal(as_sequence("code", CODE), CODE[None])
    np.testing.assert_array_equal(as_sequence("code-sequence", CODES["code-sequence"]), CODES["code-sequence"])
    looked_up = as_sequence("code-tokens", CODES["code-tokens"], np.stack([CODE, 2 * CODE]))
    np.testing.assert_array_equal(looked_up, np.stack([2 * CODE, CODE]))
    np.testing.assert_array_equal(as_sequence("tokens", TOKENS, CODEBOOK), as_mfcc("tokens", TOKENS, CODEBOOK))
    assert [frame_count(form, array) for form, array in CODES.items()] == [1, 2, 2]


def test_a_model_gets_a_code_without_a_time_axis():
    np.testing.assert_array_equal(model_input("code", CODE), CODE)
    assert model_input("code-sequence", CODES["code-sequence"]).shape == (2, 3)


@pytest.mark.parametrize("form", sorted(CODES))
def test_no_mfcc_and_no_sound_is_made_of_codes(form):
    for read in (as_mfcc, as_waveform):
        with pytest.raises(ReleaseError, match="sound can be made of"):
            read(form, CODES[form], CODEBOOK)
