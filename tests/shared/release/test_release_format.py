from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moretta.shared.core.errors import ReleaseError
from moretta.shared.models.emotion import emotion_model
from moretta.shared.release import release_format as limits
from moretta.shared.release.release_format import check_array
from moretta.shared.study.sections import MODELS

CODES = (("voice", "code"), ("voice", "code-sequence"), ("voice", "code-tokens"))
OF_FACES = (("face", "code"), ("face", "code-sequence"), ("face", "frames"))
FORMS = (("voice", "tokens"), ("voice", "mfcc"), ("voice", "waveform"), *CODES, *OF_FACES)


def sound(form: str) -> np.ndarray[Any, Any]:
    return {
        "tokens": np.array([0, 3], np.int32),
        "mfcc": np.ones((4, 13), np.float32),
        "waveform": np.full(400, 0.5, np.float32),
        "code": np.array([-3.0, 0.5, 9.0], np.float32),
        "code-sequence": np.ones((4, 3), np.float32),
        "code-tokens": np.array([3], np.int32),
        "frames": np.zeros((2, 8, 8, 3), np.uint8),
    }[form]


@pytest.mark.parametrize(("modality", "form"), FORMS)
def test_a_sound_array_of_each_form_passes(modality: Any, form: str) -> None:
    check_array(modality, form, sound(form), codebook_size=4)


@pytest.mark.parametrize(("modality", "form"), FORMS)
def test_another_dtype_or_number_of_axes_or_nothing_at_all_is_refused(modality: Any, form: str) -> None:
    good = sound(form)
    for bad in (
        good.astype(np.float64),
        good[None],
        good[:0],
        good.astype(object),
        good.byteswap().view(good.dtype.newbyteorder()),
    ):
        if bad.dtype == good.dtype and bad.shape == good.shape:
            continue  # one byte has no order
        with pytest.raises(ReleaseError, match="expected"):
            check_array(modality, form, bad, codebook_size=4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["mfcc", "waveform", "code-sequence"])
def test_values_that_are_not_finite_are_refused(form: str, value: float) -> None:
    array = sound(form)
    array.flat[3] = value
    with pytest.raises(ReleaseError, match="finite"):
        check_array("voice", form, array)


def test_tokens_outside_the_codebook_and_sound_beyond_full_scale_are_refused() -> None:
    for form in limits.CODEBOOK_FORMS:
        for tokens in ([0, 4], [-1, 2]):
            with pytest.raises(ReleaseError, match="outside the codebook"):
                check_array("voice", form, np.array(tokens, np.int32), codebook_size=4)
    with pytest.raises(ReleaseError, match=r"\[-1, 1\]"):
        check_array("voice", "waveform", np.array([1.5], np.float32))


def test_sound_of_which_nothing_can_be_measured_is_refused() -> None:
    """As found: one such clip of one site ended the whole run, because no emotion model can read it."""
    for samples in (1, limits.MIN_SAMPLES - 1):
        with pytest.raises(ReleaseError, match="at least 400 samples"):
            check_array("voice", "waveform", np.zeros(samples, np.float32))
    shortest = np.zeros(limits.MIN_SAMPLES, np.float32)
    check_array("voice", "waveform", shortest)
    for name in MODELS["voice"]:
        assert np.isfinite(emotion_model("voice", name).input_of("waveform", shortest, None, None)).all()


def test_a_form_of_the_other_modality_is_refused() -> None:
    with pytest.raises(ReleaseError, match="form of this format version"):
        check_array("face", "mfcc", sound("mfcc"))


def test_a_clip_larger_than_a_shard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SHARD_BYTES", 100)
    with pytest.raises(ReleaseError, match="shorten the clip"):
        check_array("face", "frames", sound("frames"))


@given(
    array=hnp.arrays(
        dtype=st.sampled_from([np.int32, np.int64, np.float32, np.float64, np.uint8]),
        shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    what=st.sampled_from(FORMS),
)
def test_whatever_passes_keeps_the_promises_of_its_form(array: np.ndarray[Any, Any], what: tuple[Any, str]) -> None:
    modality, form = what
    try:
        check_array(modality, form, array, codebook_size=5)
    except ReleaseError:
        return  # no other error may come out
    assert array.size
    assert array.dtype == sound(form).dtype
    assert array.ndim == sound(form).ndim
    if array.dtype == np.float32:
        assert np.isfinite(array).all()
    if form == "tokens":
        assert 0 <= array.min() <= array.max() < 5
    if form == "frames":
        assert array.shape[-1] == 3
