"""A clip as an embedding: what a site releases and states; a public network that is not there; few public people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import PlantedEncoder, planted_encoder

from moretta.client.anonymizers import adversarial_embedding
from moretta.client.anonymizers.adversarial_embedding import EmbeddingVoice, public_encoder
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features import public_speech
from moretta.shared.features.public_speech import MfccOptions, PublicVoice, synthetic_speakers
from moretta.shared.features.world_voice import WorldVoice, missing_world
from moretta.shared.models.adversarial_embedding import FIGURES, AdversarialEmbedding
from moretta.shared.models.voice_driver import VoiceDriver, train_driver
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study


def study_of(form: str = "code", **options: Any) -> Study:
    voice = {"anonymizer": "adversarial-embedding", "form": form, "options": options}
    return parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})


@pytest.fixture
def _planted() -> Iterator[None]:
    with planted_encoder():
        yield


@pytest.fixture
def quick(_planted: None, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with a stand-in for the public network, and little public speech."""
    few = lambda seed: synthetic_speakers(seed, voices=12, clips=4)  # noqa: E731
    monkeypatch.setattr(public_speech, "synthetic_speakers", few)
    monkeypatch.setattr(adversarial_embedding, "train_driver", partial(train_driver, voices=16))
    monkeypatch.setattr(MfccOptions, "public_voice", lambda _: PublicVoice(*np.float32([[0] * 13, [1] * 13])))
    return study_of(epochs=10)


def test_a_site_releases_embeddings_and_states_what_readers_find(simulated: Any, quick: Study) -> None:
    public = prepare_public(quick)
    release = make_release(simulated.site(), quick, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(quick, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.noise == "none" and stated.form == "code"
    assert recomputed_statement(quick, public, release, "voice").privacy == stated.privacy
    assert all(row.epsilon is None for row in stated.privacy)
    readers = stated.parameters["readers"]
    assert {"in_loop", "able", "fresh_linear", "faults"} <= readers["speaker"].keys() & readers["sex"].keys()
    assert {"cosine", "constant_cosine", "distinctiveness_gain"} <= readers.keys()
    arrays = [array for _, array in release.arrays("voice")]
    assert all(array.shape == (256,) and np.linalg.norm(array) == pytest.approx(1, abs=1e-5) for array in arrays)


def test_a_released_clip_is_what_the_network_makes_of_its_embedding(quick: Study) -> None:
    public = prepare_public(quick)
    made, network = EmbeddingVoice.from_study(quick, public), AdversarialEmbedding.from_arrays(public, width=256)
    for one in synthetic_speakers(3, voices=1, clips=2):
        expected = network(PlantedEncoder.load().embed_many([one.samples]))[0]
        np.testing.assert_array_equal(made.release_clip(one.samples, SeededNoise(1), "a"), expected.astype(np.float32))


def test_faults_are_notified_and_stated(quick: Study) -> None:
    lines: list[str] = []
    public = prepare_public(quick, lines.append)
    broken = np.full_like(public[FIGURES], 0.5)
    readers = EmbeddingVoice.from_study(quick, {**public, FIGURES: broken}).parameters()["readers"]
    assert any("without reversal" in fault for fault in readers["speaker"]["faults"])
    faults = AdversarialEmbedding.from_arrays(public, width=256).figures.faults()
    assert [line for line in lines if line.startswith("adversarial embedding: ")] == [
        f"adversarial embedding: {fault}" for fault in faults
    ]


@pytest.mark.parametrize("encoder", ["ge2e", "campplus"])
def test_without_the_public_network_the_command_that_gets_it_is_named(encoder: str) -> None:
    public_encoder.cache_clear()
    with pytest.raises(StudyError, match=f"no weights of {encoder}") as caught:
        prepare_public(study_of(encoder=encoder))
    assert caught.value.fix == f"run `moretta attackers fetch {encoder}`"


def test_a_site_without_the_public_network_releases_nothing(
    simulated: Any, quick: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = prepare_public(quick)
    monkeypatch.undo()
    public_encoder.cache_clear()
    monkeypatch.setattr(PlantedEncoder, "missing", lambda: "no weights of ge2e: run `moretta attackers fetch ge2e`")
    site = simulated.site()
    with pytest.raises(StudyError, match=re.escape("run `moretta attackers fetch ge2e`")):
        make_release(site, quick, public)
    assert not site.release_of(quick).exists()


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize(
    ("table", "found"),
    [
        (None, "0 female and 0 male"),
        (["1001,30,Male", "1002,30,Male", "1003,30,Male"], "0 female and 3 male"),
        (["1001,30,Male", "1002,30,Female", "1003,30,Male"], "1 female and 2 male"),
    ],
    ids=["no sex", "one sex", "too few"],
)
def test_public_speech_that_cannot_train_it_is_refused(tmp_path: Path, table: list[str] | None, found: str) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    for speaker in (1001, 1002, 1003):
        for emotion in ("ANG", "FEA", "NEU", "SAD"):
            write_wav(tmp_path / "AudioWAV" / f"{speaker}_DFA_{emotion}_XX.wav", sound)
    if table is not None:
        (tmp_path / "VideoDemographics.csv").write_text("\n".join(["ActorID,Age,Sex", *table]), encoding="utf-8")
    with pytest.raises(StudyError, match=found) as caught:
        prepare_public(study_of(public_speech=tmp_path))
    assert "VideoDemographics.csv" in caught.value.fix


def test_options_that_cannot_be_are_refused_where_a_study_is_read() -> None:
    for options, why in (
        ({"encoder": "hubert"}, "encoder"),
        ({"adversary_strength": -1}, "adversary_strength"),
        ({"epochs": 0}, "epochs"),
        ({"code_training": "private"}, "code_training"),
    ):
        with pytest.raises(StudyError, match=why):
            study_of(**options)
    with pytest.raises(StudyError, match="form"):
        parse_study({"voice": {"anonymizer": "adversarial-embedding", "form": "mfcc"}})


@pytest.mark.skipif(missing_world() is not None, reason="install the extra world")
def test_as_sound_the_clip_itself_is_changed_as_its_new_embedding_says(simulated: Any, quick: Study) -> None:
    study = study_of("waveform", epochs=10)
    public = prepare_public(study)
    release = make_release(simulated.site(), study, public)
    check_statement(study, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.form == "waveform" and release.statement.clips == 24
    assert stated.parameters["driver_explains"].keys() == {"pitch", "formants", "bandwidth"}
    assert recomputed_statement(study, public, release, "voice").parameters == stated.parameters
    made, driver = EmbeddingVoice.from_study(study, public), VoiceDriver.from_arrays(public, width=256)
    (one,) = synthetic_speakers(3, voices=1, clips=1)
    before = PlantedEncoder.load().embed_many([one.samples])[0]
    after = AdversarialEmbedding.from_arrays(public, width=256)(before[None])[0]
    expected = driver.change(before, after).applied(WorldVoice.of(one.samples)).sound()
    released = made.release_clip(one.samples, SeededNoise(1), "a")
    np.testing.assert_array_equal(released, expected[: len(one.samples)])
    # No longer than the clip: one of the largest size can be released, too
    assert len(one.samples) - 80 <= len(released) <= len(one.samples) and not np.allclose(
        released[:8_000], one.samples[:8_000]
    )


def test_sound_without_the_vocoder_is_refused_before_clips_are_read(
    quick: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = study_of("waveform", epochs=10)
    public = prepare_public(sound)
    monkeypatch.setattr(
        adversarial_embedding, "missing_world", lambda: "the WORLD vocoder is not installed: install it"
    )
    assert EmbeddingVoice.missing(quick) is None
    assert "WORLD" in str(EmbeddingVoice.missing(sound))
    EmbeddingVoice.from_study(quick, {n: a for n, a in public.items() if "embedding" in n}).fit([], SeededNoise(1))
    with pytest.raises(StudyError, match="WORLD"):
        EmbeddingVoice.from_study(sound, public).fit([], SeededNoise(1))
