from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import StudyError
from moretta.shared.features.public_codes import VECTOR_LIMIT, PublicCodes, SpeakerUnits, make_public_codes, pooled
from moretta.shared.features.public_speech import PublicVoice, make_public_voice

VOICE = PublicVoice(np.zeros(13, np.float32), np.ones(13, np.float32), np.zeros((4, 13), np.float32))


@given(frames=st.integers(1, 40), segments=st.integers(1, 16))
def test_every_clip_gives_as_many_vectors_whatever_its_length(frames: int, segments: int) -> None:
    clip = np.random.default_rng(frames).normal(size=(frames, 13)).astype(np.float32)
    assert pooled(clip, VOICE, segments).shape == (segments, 26)


def test_pooling_takes_mean_and_deviation_of_each_part() -> None:
    clip = np.concatenate([np.full((10, 13), -1.0), np.full((10, 13), 2.0)]).astype(np.float32)
    first, second = pooled(clip, VOICE, 2)
    np.testing.assert_allclose(first, [-1.0] * 13 + [0.0] * 13)
    np.testing.assert_allclose(second, [2.0] * 13 + [0.0] * 13)


def test_no_frame_counts_for_more_than_public_bounds_allow() -> None:
    assert np.abs(pooled(np.full((5, 13), 1e9, np.float32), VOICE, 1)).max() <= 3.0


def test_a_speaker_with_few_clips_is_expressed_in_units_nearer_to_public_ones() -> None:
    far = np.full((1, 26), 3.0, np.float32)
    few, many = SpeakerUnits.of(far), SpeakerUnits.of(np.repeat(far, 200, axis=0))
    assert few.mean[0] == pytest.approx(1.0)
    assert many.mean[0] == pytest.approx(3.0, rel=0.02)
    none = SpeakerUnits.of(np.empty((0, 26), np.float32))
    np.testing.assert_allclose(none.apply(far), far)


def test_own_units_take_away_what_a_speakers_clips_have_in_common(rng: np.random.Generator) -> None:
    clips = rng.normal(size=(2_000, 26)).astype(np.float32)
    ours, moved = (SpeakerUnits.of(c).apply(c) for c in (clips, 0.5 * clips + 2.0))
    np.testing.assert_allclose(moved, ours, atol=0.1)


def test_vectors_are_cut_so_that_nothing_stands_out_without_limit() -> None:
    assert np.abs(SpeakerUnits.of(np.zeros((3, 26))).apply(np.full((1, 26), 1e9))).max() <= VECTOR_LIMIT


@pytest.fixture(scope="module")
def codes() -> PublicCodes:
    return made()


def made() -> PublicCodes:
    voice = make_public_voice(13, 8, 1, voices=3)
    return make_public_codes(voice, size=5, segments=1, per_speaker=True, seed=1, voices=4)


def test_codes_are_made_of_synthetic_speech_by_seed_alone(codes: PublicCodes) -> None:
    assert codes.codewords.shape == (5, 3)
    assert codes.projection.shape == (26, 3)
    again = made().to_arrays()
    for name, array in codes.to_arrays().items():
        np.testing.assert_array_equal(array, again[name])


def test_codes_survive_the_wire(codes: PublicCodes) -> None:
    again = PublicCodes.from_arrays(codes.to_arrays())
    np.testing.assert_array_equal(again.codewords, codes.codewords)


@pytest.mark.parametrize("name", ["center", "spread", "projection", "codewords"])
@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_codes_that_cannot_be_are_refused(codes: PublicCodes, name: str, damage: str) -> None:
    arrays = codes.to_arrays()
    key = f"voice/codes/{name}"
    if damage == "missing":
        del arrays[key]
    else:
        arrays[key] = (
            arrays[key][:-1] if damage == "shape" and name != "codewords" else np.full_like(arrays[key], np.nan)
        )
    with pytest.raises(StudyError, match="public"):
        PublicCodes.from_arrays(arrays)


def test_a_deviation_that_is_not_positive_is_refused(codes: PublicCodes) -> None:
    with pytest.raises(StudyError, match="spread with values that cannot be"):
        PublicCodes.from_arrays(codes.to_arrays() | {"voice/codes/spread": np.zeros(26, np.float32)})
