"""A clip in another voice: what a site releases and states; encoders and public speech that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers import privacy_transformer
from moretta.client.anonymizers.privacy_transformer import TransformerVoice
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features.public_speech import synthetic_speech
from moretta.shared.models import train_mini_hubert
from moretta.shared.models.privacy_transformer import FIGURES, TARGETS, PrivacyTransformer
from moretta.shared.models.train_transformer import TransformerTask
from moretta.shared.models.utterance_encoders import WIDTHS, Measurements, mini_hubert_of
from moretta.shared.privacy.noise import SeededNoise, SystemNoise
from moretta.shared.release.anonymizer import Arrays, prepare_public
from moretta.shared.study.schema import Study, parse_study


def study_of(**options: Any) -> Study:
    voice = {"anonymizer": "privacy-transformer", "options": options}
    return parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})


@pytest.fixture(autouse=True, scope="module")
def _quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Little synthetic speech, and a cache of its own."""
    few = partial(TransformerTask, voices=TARGETS, held_out=2, held_out_utterances=4, together=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy_transformer, "TransformerTask", few)
        patch.setattr(train_mini_hubert, "BATCH", 2)
        patch.setenv("MORETTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


MEASURED: dict[str, Any] = {"encoder": "statistics", "utterances": 24, "epochs": 2}
NOTES: list[str] = []


@pytest.fixture(scope="module")
def public(_quick: None) -> Arrays:
    """Of a study with `MEASURED`, made once; lines about it are in `NOTES`."""
    return prepare_public(study_of(**MEASURED), NOTES.append)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Clips of a second and a half: they stand in for public recordings."""
    for number, clip in enumerate(synthetic_speech(2, 1)):
        write_wav(tmp_path / "speech" / f"{number}.wav", clip[:24_000])
    return tmp_path / "speech"


def test_a_site_releases_clips_in_other_voices_and_states_what_was_measured(simulated: Any, public: Arrays) -> None:
    study = study_of(**MEASURED)
    release = make_release(simulated.site(), study, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(study, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.noise == "seeded" and stated.form == "code"
    assert recomputed_statement(study, public, release, "voice").privacy == stated.privacy
    assert all(row.epsilon is None for row in stated.privacy)
    assert stated.parameters["encoder"] == "statistics" and stated.parameters["target"] == "drawn"
    assert {"cosine", "variation", "speaker", "emotion", "faults"} <= stated.parameters["measured"].keys()
    assert all(array.shape == (WIDTHS["statistics"],) for _, array in release.arrays("voice"))


def test_the_target_is_drawn_independently_of_the_speaker_or_is_one_for_all(public: Arrays) -> None:
    study, clip = study_of(**MEASURED), next(iter(synthetic_speech(1, 5)))
    network = PrivacyTransformer.from_arrays(public, width=WIDTHS["statistics"])
    all_voices = network(np.repeat(Measurements().embed([clip]), TARGETS, axis=0), np.arange(TARGETS))
    drawing = TransformerVoice.from_study(study, public)
    made = np.stack([drawing.release_clip(clip, SystemNoise(), "a") for _ in range(60)])
    found = np.abs(made[:, None] - all_voices).max(axis=2)
    assert found.min(axis=1).max() < 1e-4
    assert len({*found.argmin(axis=1)}) > TARGETS // 3
    a, b = (drawing.release_clip(clip, SeededNoise(1), speaker) for speaker in "ab")
    assert np.array_equal(a, b)
    single = TransformerVoice.from_study(study_of(**MEASURED, target="one"), public)
    one, again = (single.release_clip(clip, SystemNoise(), "a") for _ in range(2))
    assert np.array_equal(one, again) and not single.uses_noise
    np.testing.assert_allclose(one, all_voices[0], atol=1e-4)


def test_faults_are_notified_and_stated(public: Arrays) -> None:
    constant = {**public, FIGURES: np.zeros_like(public[FIGURES])}
    faults = TransformerVoice.from_study(study_of(**MEASURED), constant).parameters()["measured"]["faults"]
    assert len(faults) == 2 and "say nothing of utterances" in faults[0]
    figures = PrivacyTransformer.from_arrays(public, width=95).figures
    assert [line for line in NOTES if line.startswith("privacy transformer: ")] == [
        f"privacy transformer: {fault}" for fault in figures.faults()
    ]


def test_a_small_hubert_is_trained_once_for_the_same_speech_and_sent_to_sites(speech: Path) -> None:
    options = {"utterances": 24, "epochs": 1, "encoder_steps": 10, "encoder_speech": str(speech)}
    lines: list[str] = []
    study = study_of(**options)
    public = prepare_public(study, lines.append)
    assert any("training a small HuBERT on 12 clips, once" in line for line in lines)
    made = TransformerVoice.from_study(parse_study(study.for_sites()), public)
    assert made.parameters()["encoder"] == "mini-hubert"
    clip = next(iter(synthetic_speech(1, 5)))
    assert made.release_clip(clip, SeededNoise(1), "a").shape == (WIDTHS["mini-hubert"],)
    lines.clear()
    again = mini_hubert_of(None, speech, steps=10, notify=lines.append).arrays
    assert not any("small HuBERT" in line for line in lines)
    assert all(np.array_equal(public[name], array) for name, array in again.items())
    (speech / "0.wav").unlink()
    mini_hubert_of(None, speech, steps=10, notify=lines.append)
    assert any("training a small HuBERT on 11 clips, once" in line for line in lines)


def test_without_public_speech_the_small_hubert_is_refused_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="without public speech") as caught:
        prepare_public(study_of())
    assert "public_speech" in caught.value.fix and "statistics" in caught.value.fix
    write_wav(tmp_path / "one" / "1001_DFA_ANG_XX.wav", next(iter(synthetic_speech(1, 1))))
    for options in ({}, {"encoder": "statistics", "utterances": 24, "epochs": 1}):
        with pytest.raises(StudyError, match="1 people in the names of 1 wav files"):
            prepare_public(study_of(**options, public_speech=str(tmp_path / "one")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="no usable speech among 0 wav files"):
        prepare_public(study_of(encoder_speech=str(tmp_path / "empty")))


def test_without_hubert_the_command_that_gets_it_is_named_and_a_site_releases_nothing(
    simulated: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    study = study_of(encoder="hubert")
    assert "torchaudio.pipelines.HUBERT_BASE" in str(TransformerVoice.missing(study))
    assert TransformerVoice.missing(study_of()) is None
    with pytest.raises(StudyError, match="'hubert' is not on this machine") as caught:
        prepare_public(study)
    assert caught.value.fix.startswith("run `python -c")
    rules = TransformerVoice.public_rules(study)
    public = {name: np.ones(rule.shape, rule.dtype) for name, rule in rules.items()}  # type: ignore[arg-type]
    site = simulated.site()
    with pytest.raises(StudyError, match="HUBERT_BASE"):
        make_release(site, study, public)
    assert not site.release_of(study).exists()


def test_options_that_cannot_be_are_refused_where_a_study_is_read() -> None:
    for options, why in (
        ({"encoder": "wav2vec2"}, "encoder"),
        ({"target": "own"}, "target"),
        ({"epochs": 0}, "epochs"),
        ({"utterances": 1}, "utterances"),
        ({"encoder_steps": 1}, "encoder_steps"),
        ({"code_training": "federated"}, "code_training"),
    ):
        with pytest.raises(StudyError, match=why):
            study_of(**options)
    with pytest.raises(StudyError, match="form"):
        parse_study({"voice": {"anonymizer": "privacy-transformer", "form": "waveform"}})
