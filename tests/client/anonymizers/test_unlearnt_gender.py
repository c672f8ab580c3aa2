"""Clips as embeddings: what a site releases and states of voice, of faces and of both; public people refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers import unlearnt_gender
from moretta.client.anonymizers.unlearnt_gender import NAME, UnlearntFace
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features import public_speech
from moretta.shared.features.face_detectors import NoDetector
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.models import unlearnt_inputs
from moretta.shared.models.unlearnt_gender import SIDE, SIZES, WIDTH, UnlearntEmbedding
from moretta.shared.models.unlearnt_inputs import voice_input
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer, prepare_public
from moretta.shared.study.schema import Study, parse_study


def study_of(*modalities: str, face: dict[str, Any] | None = None, **options: Any) -> Study:
    off: dict[str, Any] = {"enabled": False}
    sections = {
        "voice": {"anonymizer": NAME, "options": options} if "voice" in modalities else off,
        "face": {"anonymizer": NAME, "options": options if face is None else face} if "face" in modalities else off,
    }
    return parse_study({"sites": 2, "split": {"folds": 2}, **sections})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little synthetic people, whose faces are noise."""
    monkeypatch.setattr(public_speech, "synthetic_speakers", lambda seed: synthetic_speakers(seed, voices=12, clips=4))
    drawn = np.random.default_rng(1)
    noise = lambda *_: drawn.normal(size=SIZES["face"]).astype(np.float32)  # noqa: E731
    monkeypatch.setattr(unlearnt_inputs, "_drawn", noise)
    unlearnt_gender._trained.cache_clear()


@pytest.mark.usefixtures("few")
def test_a_site_releases_embeddings_and_states_what_readers_find(simulated: Any) -> None:
    study = study_of("voice", epochs=2)
    public = prepare_public(study)
    release = make_release(simulated.site(), study, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(study, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.noise == "none" and stated.form == "code"
    assert recomputed_statement(study, public, release, "voice").privacy == stated.privacy
    assert all(row.epsilon is None for row in stated.privacy)
    readers = stated.parameters["readers"]
    assert {"in_loop", "able", "fresh_linear", "faults"} <= readers["sex"].keys()
    assert {"emotion", "emotion_kept"} <= readers.keys()
    assert all(array.shape == (WIDTH,) for _, array in release.arrays("voice"))


@pytest.mark.usefixtures("few")
def test_voice_and_face_are_trained_together_once_and_each_is_released_by_itself() -> None:
    study = study_of("voice", "face", epochs=1)
    lines: list[str] = []
    public = prepare_public(study, lines.append)
    assert public.keys() == UnlearntEmbedding.rules("voice").keys() | UnlearntEmbedding.rules("face").keys()
    assert unlearnt_gender._trained.cache_info().misses == 1
    assert any("voice and face" in line for line in lines)
    alone, together = (get_anonymizer("voice", NAME).public_choices(s) for s in (study_of("voice", epochs=1), study))
    assert alone != together  # another network
    (one,) = synthetic_speakers(3, voices=1, clips=1)
    voice = get_anonymizer("voice", NAME).from_study(study, public)
    network = UnlearntEmbedding.from_arrays("voice", public)
    np.testing.assert_array_equal(
        voice.release_clip(one.samples, SeededNoise(1), "a"), network(voice_input([one.samples]))[0]
    )
    pictures = np.random.default_rng(1).integers(0, 255, (7, SIDE, SIDE, 3)).astype(np.uint8)
    found = UnlearntFace.from_study(study, public)
    monkey: Any = found._cropper
    monkey._detector = NoDetector()
    with pytest.raises(ClipError, match="without a face"):
        found.release_clip(pictures, SeededNoise(1), "a")
    assert found.statement({}, "system").counts["clips_without_face"] == 1


def test_one_network_has_one_strength_and_one_public_folder(tmp_path: Path) -> None:
    for other in (
        {"adversary_strength": 0.5},
        {"epochs": 7},
        {"public_faces": tmp_path},
        {"code_training": "federated"},
    ):
        with pytest.raises(StudyError, match="different public folders, strengths, epochs or code_training"):
            prepare_public(study_of("voice", "face", face=other))


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (None, "0 female and 0 male"),
        (["1001,30,Male", "1002,30,Male", "1003,30,Male"], "0 female and 3 male"),
        (["1001,30,Male"], "0 female and 1 male"),
    ],
    ids=["no sex", "one sex", "one person with a sex"],
)
def test_public_speech_that_cannot_train_it_is_refused(tmp_path: Path, table: list[str] | None, found: str) -> None:
    write_noise(tmp_path)
    if table is not None:
        (tmp_path / "VideoDemographics.csv").write_text("\n".join(["ActorID,Age,Sex", *table]), encoding="utf-8")
    with pytest.raises(StudyError, match=found) as caught:
        prepare_public(study_of("voice", public_speech=tmp_path))
    assert "VideoDemographics.csv" in caught.value.fix


def test_public_people_of_one_emotion_or_person_or_without_faces_are_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "one emotion", emotions=("ANG",))
    with pytest.raises(StudyError, match="who show 1 emotion"):
        prepare_public(study_of("voice", public_speech=tmp_path / "one emotion"))
    write_noise(tmp_path / "one person", people=(1001,))
    with pytest.raises(StudyError, match="1 people in the names"):
        prepare_public(study_of("voice", public_speech=tmp_path / "one person"))
    write_noise(tmp_path / "no faces")
    with pytest.raises(StudyError, match="no clip with a face among 6 clips, 0 of them with video") as caught:
        prepare_public(study_of("face", public_faces=tmp_path / "no faces"))
    assert "synthetic people" in caught.value.fix


def write_noise(
    folder: Path, *, people: tuple[int, ...] = (1001, 1002, 1003), emotions: tuple[str, ...] = ("ANG", "NEU")
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    for speaker in people:
        for emotion in emotions:
            (folder / "AudioWAV").mkdir(parents=True, exist_ok=True)
            write_wav(folder / "AudioWAV" / f"{speaker}_DFA_{emotion}_XX.wav", sound)


def test_options_that_cannot_be_are_refused_where_a_study_is_read() -> None:
    for options, why in (({"adversary_strength": -1}, "adversary_strength"), ({"epochs": 0}, "epochs")):
        for modality in ("voice", "face"):
            with pytest.raises(StudyError, match=why):
                study_of(modality, **options)
