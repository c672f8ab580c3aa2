import numpy as np
import pytest

from moretta.shared.errors import ReleaseError
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.voice_forms import as_mfcc, as_waveform, frame_count

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
