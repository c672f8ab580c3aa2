from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers.speaker_normalized import SpeakerNormalized
from moretta.client.anonymizers.speaker_references import clip_digest
from moretta.shared.core.errors import ClipError, HomeError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.media import write_wav
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import CODE_LIMIT, public_rows, train_speaker_code
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.mechanism import Unbounded
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer, prepare_public
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

FORMS = ("code", "code-sequence", "code-tokens")
FILE = "speaker-normalized.safetensors"
Clips = list[tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def shared() -> dict[str, dict[str, Any]]:
    people = list(synthetic_speakers(1, voices=4, clips=12))
    clips, steps = (public_rows(people, in_windows=in_windows) for in_windows in (False, True))
    of_clips, of_steps = (train_speaker_code(rows, size=5, codebook_size=16, seed=1) for rows in (clips, steps))
    return {form: (of_clips if form == "code" else of_steps).to_arrays() for form in FORMS}


@pytest.fixture(scope="module")
def spoken() -> Clips:
    """Twelve clips of each of three speakers."""
    return [
        (str(number), synthesize(make_voice(50 + number), EMOTIONS[clip % 6], "DFA", seed=100 * number + clip))
        for number in range(3)
        for clip in range(12)
    ]


def build(shared: dict[str, dict[str, Any]], form: str = "code", noise: float = 0.0) -> SpeakerNormalized:
    study = Study().with_changes(
        voice={"anonymizer": "speaker-normalized", "form": form, "code_noise": noise, "codebook_size": 16}
    )
    made = get_anonymizer("voice", "speaker-normalized").from_study(study, shared[form])
    assert isinstance(made, SpeakerNormalized)
    return made


def fitted(shared: dict[str, dict[str, Any]], clips: Clips, **how: Any) -> SpeakerNormalized:
    made = build(shared, **how)
    made.fit(clips, SeededNoise(1, "fit"))
    return made


def released(made: SpeakerNormalized, clips: Clips, seed: int = 1) -> list[Any]:
    noise = [SeededNoise(seed, index) for index in range(len(clips))]
    return made.release([clip for _, clip in clips], noise, [speaker for speaker, _ in clips])


def test_the_name_alone_makes_codes() -> None:
    assert Study().with_changes(voice={"anonymizer": "speaker-normalized"}).voice.form == "code"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_the_format(shared: Any, spoken: Clips, form: str) -> None:
    made = fitted(shared, spoken, form=form, noise=0.5)
    for array in released(made, spoken):
        check_array("voice", form, array, codebook_size=16)
        assert made.frames(array) == (1 if form == "code" else len(array))
    assert (made.codebook is None) == (form != "code-tokens")


def test_what_is_the_same_in_all_of_a_speakers_clips_is_not_released(shared: Any, spoken: Clips) -> None:
    """A whole octave and 20 dB apart, and released alike: only differences between a speaker's clips are left."""
    mine = [(speaker, clip) for speaker, clip in spoken if speaker == "0"]
    louder = [("loud", np.clip(3 * clip, -1, 1)) for _, clip in mine]
    here = np.stack(released(fitted(shared, mine), mine))
    there = np.stack(released(fitted(shared, louder), louder))
    assert np.abs(here - there).mean() < 0.15
    assert here.std() > 0.7


def test_the_only_clip_of_a_speaker_is_released_as_zero(shared: Any, spoken: Clips) -> None:
    for clip in (spoken[0], spoken[20]):
        (code,) = released(fitted(shared, [clip]), [clip])
        np.testing.assert_allclose(code, 0.0, atol=1e-6)
        (noisy,) = released(fitted(shared, [clip], noise=0.5), [clip])
        assert 0 < np.abs(noisy).max() < 3


@pytest.mark.parametrize("clips", [2, 3, 5])
def test_few_clips_are_released_small_and_finite(shared: Any, spoken: Clips, clips: int) -> None:
    codes = np.stack(released(fitted(shared, spoken[:clips]), spoken[:clips]))
    assert np.isfinite(codes).all()
    assert np.abs(codes).max() <= CODE_LIMIT
    assert np.abs(codes.mean(axis=0)).max() < 1.5


def test_one_emotion_only_looks_like_any_speaker(shared: Any, spoken: Clips) -> None:
    """Angry all the time: that is no difference between this speaker's clips."""
    angry = [("angry", synthesize(make_voice(9), EMOTIONS[0], "DFA", seed=seed)) for seed in range(12)]
    made = fitted(shared, [*spoken, *angry])
    codes, others = np.stack(released(made, angry)), np.stack(released(made, spoken[:12]))
    assert np.abs(codes.mean(axis=0) - others.mean(axis=0)).max() < 1.0
    assert 0.3 < codes.std() / others.std() < 1.5


def test_other_speakers_change_nothing_of_a_speakers_codes(shared: Any, spoken: Clips) -> None:
    """However many clips they have."""
    mine = spoken[:12]
    alone = released(fitted(shared, mine), mine)
    among = released(fitted(shared, [*mine, *spoken[12:15], *spoken[24:]]), mine)
    for first, second in zip(alone, among, strict=True):
        np.testing.assert_array_equal(first, second)


def test_new_clips_are_normalized_by_the_known_ones_and_change_nothing_released(
    shared: Any, spoken: Clips, tmp_path: Path
) -> None:
    known, new = spoken[:10], spoken[10:12]
    first = build(shared)
    first.keep_in(tmp_path)
    first.fit(known, SeededNoise(1, "first"))
    before = released(first, known)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    later = build(shared)
    later.keep_in(tmp_path)
    later.fit([*known, *new], SeededNoise(2, "later"))
    codes = released(later, new)
    alone = released(fitted(shared, new), new)
    assert np.abs(np.stack(codes) - np.stack(alone)).max() > 0.3  # not relative to each other only
    for old, again in zip(before, released(first, known), strict=True):
        np.testing.assert_array_equal(old, again)


def test_a_clip_that_is_known_does_not_count_twice(shared: Any, spoken: Clips, tmp_path: Path) -> None:
    codes = []
    for _ in range(2):
        made = build(shared)
        made.keep_in(tmp_path)
        made.fit(spoken[:12], SeededNoise(1, "fit"))
        codes.append(released(made, spoken[:12]))
    np.testing.assert_array_equal(codes[0], codes[1])


@pytest.mark.parametrize("form", ["code", "code-sequence"])
def test_after_a_clip_was_deleted_the_others_are_released_as_if_it_had_never_been(
    shared: Any, spoken: Clips, tmp_path: Path, form: str
) -> None:
    """And differently from before: it did move them."""
    made = build(shared, form)
    made.keep_in(tmp_path)
    made.fit(spoken[:12], SeededNoise(1, "fit"))
    before, left = released(made, spoken[:12])[1:], spoken[1:12]
    later = build(shared, form)
    later.keep_in(tmp_path)
    later.fit(left, SeededNoise(2, "later"))
    after = released(later, left)
    assert np.abs(np.concatenate(before) - np.concatenate(after)).max() > 0.01
    kept = (tmp_path / FILE).read_bytes()
    assert clip_digest(spoken[0][1]) not in kept and clip_digest(spoken[1][1]) in kept
    again = build(shared, form)
    again.keep_in(tmp_path)  # has never had the deleted clip
    again.fit(left, SeededNoise(3, "again"))
    for one, other in zip(after, released(again, left), strict=True):
        np.testing.assert_array_equal(one, other)


def test_measurements_that_earlier_versions_kept_are_removed(shared: Any, tmp_path: Path) -> None:
    for rows in ("clips", "steps"):
        (tmp_path / f"speaker-normalised-{rows}.safetensors").write_bytes(b"measurements")
    build(shared).keep_in(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_memory_is_an_error_and_not_forgotten(shared: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(HomeError, match="remembers"):
        build(shared).keep_in(tmp_path)


def test_who_was_not_fitted_and_what_is_no_clip_are_not_released(shared: Any, spoken: Clips) -> None:
    made = fitted(shared, [*spoken[:12], ("0", np.zeros(5, np.float32))])
    unknown, broken, good = released(made, [("7", spoken[0][1]), ("0", np.zeros(5, np.float32)), spoken[0]])
    assert isinstance(unknown, ClipError) and unknown.reason == "unknown-speaker"
    assert isinstance(broken, ClipError)
    assert isinstance(good, np.ndarray)


def test_noise_is_the_clips_own_and_as_large_as_the_study_says(shared: Any, spoken: Clips) -> None:
    made, plain = fitted(shared, spoken, noise=0.8), fitted(shared, spoken)
    off = np.stack(released(made, spoken)) - np.stack(released(plain, spoken))
    assert off.std() == pytest.approx(0.8, rel=0.2)
    assert np.abs(np.corrcoef(off)[np.triu_indices(len(off), 1)]).mean() < 0.6


def test_the_statement_says_what_noise_guarantees_and_that_normalising_guarantees_nothing(shared: Any) -> None:
    sizes = {"0": [1] * 12, "1": [1] * 3}
    said = build(shared, noise=0.5).statement(sizes, "seeded")
    assert {p.unit for p in said.privacy} == {"clip", "speaker"}
    for stated in said.privacy:
        loss = Gaussian(sigma=0.5, distance=2 * CODE_LIMIT * np.sqrt(12 * 5))
        assert stated.epsilon == pytest.approx(loss.epsilon(stated.delta))
        assert "guarantees nothing by itself" in stated.note
    bare = build(shared)
    assert all(p.epsilon is None for p in bare.statement(sizes, "seeded").privacy)
    assert all(isinstance(m, Unbounded) for losses in bare.losses(sizes).values() for m in losses)


def test_the_budget_can_be_planned_before_anything_is_there(shared: Any) -> None:
    study = Study().with_changes(voice={"anonymizer": "speaker-normalized"})
    sizes = {"0": [1] * 4}
    assert SpeakerNormalized.planned_losses(study, sizes) == build(shared, noise=0.5).losses(sizes)
    assert SpeakerNormalized.planned_losses(study, {}) == {"clip": (), "speaker": ()}
    assert SpeakerNormalized.is_fitted(study)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_planned_for_a_clip_by_its_length_is_what_it_costs(shared: Any, form: str) -> None:
    """Spoken from start to end; where there is silence, it costs less."""
    clips = [("0", 0.1 * np.random.default_rng(clip).normal(size=41_600).astype(np.float32)) for clip in range(3)]
    made = fitted(shared, clips, form=form, noise=0.5)
    sizes = {"0": [made.frames(array) for array in released(made, clips)]}
    study = Study().with_changes(voice={"anonymizer": "speaker-normalized", "form": form})
    assert SpeakerNormalized.planned_losses(study, {"0": [261] * 3}) == made.losses(sizes)


def test_mfcc_tokens_and_codes_of_another_size_are_refused(shared: Any) -> None:
    for changes, found in (
        ({"form": "tokens"}, "tokens"),
        ({"options": {"code_size": 9}}, "5 val"),
    ):
        with pytest.raises(StudyError, match=found):
            study = Study().with_changes(voice={"anonymizer": "speaker-normalized", **changes})
            SpeakerNormalized.from_study(study, shared["code"])


@pytest.mark.parametrize("form", ["code", "code-sequence"])
def test_a_network_learnt_on_a_folder_makes_codes_at_a_site_and_the_statement_names_it(
    spoken: Clips, tmp_path: Path, form: str
) -> None:
    """As a coordinator makes it for the study, and a site uses it."""
    for number, one in enumerate(synthetic_speakers(1, voices=3, clips=12)):
        name = f"{1001 + int(one.person)}_DFA_{EMOTIONS[number % 6]}_XX.wav"
        write_wav(tmp_path / str(number) / name, one.samples)
    options = {"codebook_size": 16, "public_speech": tmp_path, "code_encoder": "network", "code_size": 4}
    voice = {"anonymizer": "speaker-normalized", "form": form, "options": options}
    study = Study().with_changes(voice=voice, face={"enabled": False})
    arrays = prepare_public(study)
    made = SpeakerNormalized.from_study(study, arrays)
    made.fit(spoken, SeededNoise(1, "fit"))
    for array in released(made, spoken):
        check_array("voice", form, array, codebook_size=16)
        assert array.shape[-1] == 4
    said = made.statement({"0": [1] * 12}, "seeded").parameters
    assert said["code_encoder"] == "network"
    with pytest.raises(StudyError, match="of the kind network"):
        SpeakerNormalized.from_study(study.with_changes(voice__options__code_encoder="directions"), arrays)


def test_directions_are_not_taken_for_a_network(shared: Any) -> None:
    study = Study().with_changes(voice={"anonymizer": "speaker-normalized", "code_encoder": "network"})
    with pytest.raises(StudyError, match="directions"):
        SpeakerNormalized.from_study(study, shared["code"])
