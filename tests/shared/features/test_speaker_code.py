from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import Recording, recorded_speakers, synthetic_speakers
from moretta.shared.features.speaker_code import (
    CODE_LIMIT,
    CodeReference,
    HiddenLayer,
    SpeakerCode,
    measured,
    public_rows,
    train_speaker_code,
)
from moretta.shared.features.speaker_normalization import SpeakerRanks


@pytest.fixture(scope="module")
def people() -> list[Recording]:
    return list(synthetic_speakers(1, voices=4, clips=12))


def code_of(people: list[Recording], size: int = 5, *, in_windows: bool = False) -> SpeakerCode:
    return train_speaker_code(public_rows(people, in_windows=in_windows), size=size, codebook_size=16, seed=1)


def test_public_people_are_the_same_for_the_same_seed_and_speak_in_every_emotion(people: list[Recording]) -> None:
    again = next(synthetic_speakers(1, voices=1, clips=1))
    np.testing.assert_array_equal(again.samples, people[0].samples)
    assert {r.emotion for r in people} == set(range(6))
    assert len({r.person for r in people}) == 4


@pytest.mark.parametrize("size", [2, 5, 16, 32])
def test_a_code_of_every_size_varies_by_one_within_a_person(people: list[Recording], size: int) -> None:
    code = code_of(people, size)
    assert code.size == size
    rows = np.concatenate(measured([r.samples for r in people], in_windows=False))
    person = np.array([r.person for r in people])
    codes = [SpeakerRanks.of(rows[person == p], np.ones(12), code.spread)(rows[person == p]) for p in np.unique(person)]
    variance = np.mean([(c @ code.projection).var(axis=0) for c in codes], axis=0)
    assert variance.mean() == pytest.approx(1.0, abs=0.35)


def test_the_first_values_reveal_emotion(people: list[Recording]) -> None:
    """On voices that the code was not learnt on."""
    from sklearn.linear_model import LogisticRegression

    code = code_of(people)
    others = list(synthetic_speakers(7, voices=4, clips=12))
    rows = np.concatenate(measured([r.samples for r in others], in_windows=False))
    person, emotion = np.array([r.person for r in others]), np.array([r.emotion for r in others])
    codes = np.empty((len(rows), 5))
    for one in np.unique(person):
        mine = person == one
        codes[mine] = CodeReference.of(rows[mine], np.ones(mine.sum()), code)(rows[mine])
    known = np.isin(person, np.unique(person)[:2])
    right = LogisticRegression().fit(codes[known], emotion[known]).predict(codes[~known]) == emotion[~known]
    assert right.mean() > 0.4
    assert np.abs(codes).max() <= CODE_LIMIT


def test_what_is_sent_is_what_was_made_and_what_cannot_be_is_refused(people: list[Recording]) -> None:
    arrays = code_of(people).to_arrays()
    again = SpeakerCode.from_arrays(arrays)
    np.testing.assert_array_equal(again.projection, arrays["voice/speaker/projection"])
    for name, bad in (
        ("projection", np.zeros((3, 5))),
        ("spread", np.zeros(95)),
        ("codewords", np.full((4, 5), np.nan)),
    ):
        with pytest.raises(StudyError, match=f"voice/speaker/{name}"):
            SpeakerCode.from_arrays({**arrays, f"voice/speaker/{name}": bad})
    with pytest.raises(StudyError, match="spread"):
        SpeakerCode.from_arrays({})


def test_a_network_is_sent_as_plain_arrays_and_what_does_not_fit_together_is_refused(people: list[Recording]) -> None:
    rows = public_rows(people, in_windows=False)
    code = train_speaker_code(rows, size=4, codebook_size=16, seed=1, network_noise=0.5)
    arrays = code.to_arrays()
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    again = SpeakerCode.from_arrays(arrays)
    places = np.random.default_rng(0).normal(size=(7, 95))
    np.testing.assert_array_equal(again.raw(places), code.raw(places))
    assert again.hidden is not None and again.size == 4
    for name, bad in (
        ("projection", arrays["voice/speaker/projection"][:-1]),
        ("hidden-bias", arrays["voice/speaker/hidden-bias"][:-1]),
        ("hidden-weight", np.full_like(arrays["voice/speaker/hidden-weight"], np.nan)),
    ):
        with pytest.raises(StudyError, match=f"voice/speaker/{name}|voice/speaker/projection"):
            SpeakerCode.from_arrays({**arrays, f"voice/speaker/{name}": bad})


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_a_secret_shift_is_as_large_as_a_networks_codes_vary(scale: float) -> None:
    """A larger one would tell by itself whose codes they are."""
    drawn = np.random.default_rng(3)
    width = len(MEASUREMENTS)
    hidden = HiddenLayer(np.hstack([np.eye(width), -np.eye(width)]).astype(np.float32), np.zeros(2 * width, np.float32))
    directions = np.linalg.qr(drawn.normal(size=(width, 4)))[0] * scale
    projection = np.vstack([directions, -directions]).astype(np.float32)
    code = SpeakerCode(np.ones(width, np.float32), projection, np.zeros((2, 4), np.float32), hidden=hidden)
    values = drawn.normal(size=(200, width))
    codes = CodeReference.of(values, np.ones(200), code, shift=np.full(4, 0.15))(values)
    np.testing.assert_allclose(np.abs(codes.mean(axis=0)) / codes.std(axis=0), 0.15, atol=0.06)


def test_steps_are_coded_too(people: list[Recording]) -> None:
    assert code_of(people[:24], in_windows=True).size == 5


def test_too_little_speech_is_an_error(people: list[Recording]) -> None:
    with pytest.raises(StudyError, match="public speech"):
        code_of(people[:10])


def test_recordings_are_taken_with_whole_people_by_their_names(tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    for speaker in ("1001", "1002", "1003"):
        for emotion in ("ANG", "SAD"):
            write_wav(tmp_path / "deep" / f"{speaker}_DFA_{emotion}_XX.wav", sound)
    (tmp_path / "1003_IEO_SAD_LO.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "unnamed.wav", sound)
    found = list(recorded_speakers(tmp_path, 1))
    assert sorted((r.person, r.emotion) for r in found) == [(p, e) for p in ("1001", "1002", "1003") for e in (0, 5)]


def test_a_folder_whose_names_do_not_reveal_who_speaks_is_an_error(tmp_path: Path) -> None:
    write_wav(tmp_path / "anybody.wav", np.zeros(8_000, np.float32))
    with pytest.raises(StudyError, match="named as CREMA-D"):
        list(recorded_speakers(tmp_path, 1))
