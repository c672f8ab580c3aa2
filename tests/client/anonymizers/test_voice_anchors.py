import numpy as np
import pytest

from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.voice_forms import as_mfcc
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import anonymizer_names, get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

CLIPS = [(0.1 * np.random.default_rng(seed).standard_normal(6_000 + seed)).astype(np.float32) for seed in range(3)]
NOISE = [SeededNoise(1, index) for index in range(3)]
WHOSE = ["one", "one", "other"]


def build(name: str, form: str):
    return get_anonymizer("voice", name).from_study(Study().with_changes(voice={"anonymizer": name, "form": form}), {})


def test_voice_anonymizers_are_found_by_name():
    assert {"constant", "mcadams", "mfcc-quantizer", "none"} <= set(anonymizer_names("voice"))


@pytest.mark.parametrize("name", ["none", "mcadams", "constant"])
@pytest.mark.parametrize("form", ["mfcc", "waveform"])
def test_releases_keep_the_format_and_broken_clips_are_errors(name, form):
    anonymizer = build(name, form)
    *good, bad = anonymizer.release([*CLIPS, np.zeros(5, np.float32)], [*NOISE, SeededNoise(1)], [*WHOSE, "other"])
    assert isinstance(bad, ClipError)
    for released in good:
        check_array("voice", form, released)
        assert anonymizer.frames(released) == len(as_mfcc(form, released))


@pytest.mark.parametrize("name", ["none", "mcadams"])
def test_tokens_without_a_codebook_are_a_study_error(name):
    with pytest.raises(StudyError, match="tokens"):
        build(name, "tokens")


def test_none_changes_nothing():
    for raw, sound, frames in zip(
        CLIPS,
        build("none", "waveform").release(CLIPS, NOISE, WHOSE),
        build("none", "mfcc").release(CLIPS, NOISE, WHOSE),
        strict=True,
    ):
        np.testing.assert_array_equal(sound, raw)
        np.testing.assert_array_equal(frames, mfcc(raw))


@pytest.mark.parametrize("form", ["tokens", "mfcc", "waveform"])
def test_constant_is_the_same_for_every_clip_and_every_site(form):
    here, there = build("constant", form), build("constant", form)
    first, *others = [*here.release(CLIPS, NOISE, WHOSE), *there.release(CLIPS[::-1], NOISE, WHOSE)]
    check_array("voice", form, first, codebook_size=len(here.codebook))
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_statements_promise_nothing_that_is_not_kept():
    for name, epsilon in (("none", None), ("mcadams", None), ("constant", 0.0)):
        statement = build(name, "mfcc").statement({"a": [100]}, "system")
        assert statement.noise == "none"
        assert {row.unit for row in statement.privacy} == {"value", "frame", "clip", "speaker"}
        assert {row.epsilon for row in statement.privacy} == {epsilon}
