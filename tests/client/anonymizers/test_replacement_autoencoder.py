"""A clip through the replacement autoencoder: what a site releases and states, and public speech that is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import planted_people

from moretta.client.anonymizers import replacement_autoencoder
from moretta.client.anonymizers.replacement_autoencoder import ReplacementVoice
from moretta.client.clips.release import make_release
from moretta.server.stages.statement_checks import check_statement, recomputed_statement
from moretta.shared.core.errors import StudyError
from moretta.shared.data.media import write_wav
from moretta.shared.features.public_speech import recorded_speakers, synthetic_speakers
from moretta.shared.features.speaker_code import measured_clip, public_rows
from moretta.shared.models.adversaries import AdversaryFigures
from moretta.shared.models.replacement_autoencoder import FIGURES, LIMIT, ReplacementAutoencoder
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study

NAME = "replacement-autoencoder"
ROOT = Path(__file__).parents[3]


def study_of(**options: Any) -> Study:
    voice = {"anonymizer": NAME, "options": options}
    return parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose public speech is a toy."""
    rows = planted_people()
    monkeypatch.setattr(replacement_autoencoder, "measured_public_speech", lambda *_, **__: rows)
    return study_of(epochs=20)


def test_no_other_file_of_the_product_knows_its_name() -> None:
    tracked = ["client", "server", "shared", "deploy", "src"]
    command = ["git", "grep", "-lE", f"{NAME}|ReplacementVoice", "--", *tracked]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode > 1:
        pytest.skip("no git")
    known = {
        "client/anonymizers/replacement_autoencoder.py",
        "shared/release/public/manifest.json",
        "deploy/sweep/zoo.toml",
    }
    assert set(found.stdout.split()) <= known


def test_options_that_hide_nothing_or_name_no_emotion_are_refused_where_a_study_is_read() -> None:
    for options, why in (
        ({"sensitive": "NEU"}, "NEU replaced by itself"),
        ({"sensitive": "XXX"}, "sensitive"),
        ({"replacement": "none"}, "replacement"),
        ({"adversary_strength": -1}, "adversary_strength"),
        ({"epochs": 0}, "epochs"),
    ):
        with pytest.raises(StudyError, match=why):
            study_of(**options)
    assert study_of(sensitive="none").voice.form == "code"


def test_a_site_releases_by_public_arrays_and_states_what_readers_of_sex_find(simulated: Any, quick: Study) -> None:
    public = prepare_public(quick)
    release = make_release(simulated.site(), quick, public)
    assert release.statement.clips == 24 and not release.statement.dropped
    check_statement(quick, release)
    stated = release.anonymizer("voice")
    assert stated is not None and stated.noise == "none"
    assert recomputed_statement(quick, public, release, "voice").privacy == stated.privacy
    assert all(row.epsilon is None for row in stated.privacy)
    assert {*AdversaryFigures.names(), "classes", "faults"} == stated.parameters["sex"].keys()
    assert stated.parameters["sex"]["able"] >= 0.9
    arrays = [array for _, array in release.arrays("voice")]
    assert all(array.shape == (95,) and np.abs(array).max() <= LIMIT for array in arrays)


def test_a_released_clip_is_what_the_network_makes_of_its_measurements(quick: Study) -> None:
    public = prepare_public(quick)
    made, network = ReplacementVoice.from_study(quick, public), ReplacementAutoencoder.from_arrays(public)
    for one in synthetic_speakers(1, voices=1, clips=2):
        expected = network(network.places(measured_clip(one.samples, in_windows=False)))[0]
        np.testing.assert_array_equal(made.release_clip(one.samples, SeededNoise(1), "a"), expected.astype(np.float32))


def test_faults_of_the_adversary_are_notified_and_stated(quick: Study) -> None:
    public = prepare_public(quick)
    weak = public[FIGURES].copy()
    weak[AdversaryFigures.names().index("able")] = 0.6
    made = ReplacementVoice.from_study(quick, {**public, FIGURES: weak})
    [fault] = made.parameters()["sex"]["faults"]
    assert "without reversal" in fault


def test_faults_and_people_without_a_part_are_told_where_the_network_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, rows = np.random.default_rng(1), planted_people()
    nothing = rows._replace(
        values=drawn.normal(size=rows.values.shape),  # no sex to be read
        sex=np.where(np.isin(rows.person, ["0", "1", "2"]), "", rows.sex),
    )
    monkeypatch.setattr(replacement_autoencoder, "measured_public_speech", lambda *_, **__: nothing)
    lines: list[str] = []
    prepare_public(study_of(epochs=10), lines.append)
    assert any("without reversal" in line for line in lines)
    assert any(line.startswith("3 people of the public speech have no part") for line in lines)


def folder_of(root: Path, names: list[str], table: list[str] | None) -> Path:
    sound = 0.1 * np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    for name in names:
        write_wav(root / "AudioWAV" / f"{name}.wav", sound)
    if table is not None:
        (root / "VideoDemographics.csv").write_text("\n".join(["ActorID,Age,Sex", *table]), encoding="utf-8")
    return root


PEOPLE = [f"{speaker}_DFA_{emotion}_XX" for speaker in range(1001, 1007) for emotion in ("FEA", "NEU")]
TABLE = [f"{speaker},30,{'Male' if speaker % 2 else 'Female'}" for speaker in range(1001, 1007)]


def test_the_table_of_a_folder_gives_the_sex_of_its_people(tmp_path: Path) -> None:
    found = list(recorded_speakers(folder_of(tmp_path, PEOPLE, TABLE[:-1]), 1))
    assert {(one.person, one.sex) for one in found if one.person in ("1001", "1002", "1006")} == {
        ("1001", "male"),
        ("1002", "female"),
        ("1006", ""),
    }
    (tmp_path / "VideoDemographics.csv").write_text("nothing of the kind", encoding="utf-8")
    assert {one.sex for one in recorded_speakers(tmp_path, 1)} == {""}
    assert {one.sex for one in synthetic_speakers(1, voices=4, clips=1)} == {"female", "male"}


@pytest.mark.parametrize(
    ("names", "table", "found"),
    [
        (PEOPLE, None, "VideoDemographics.csv"),
        (PEOPLE, [], "0 female and 0 male"),
        (PEOPLE, [f"{speaker},30,Male" for speaker in range(1001, 1007)], "0 female and 6 male"),
        (PEOPLE, TABLE[:5], "2 female and 3 male"),
        ([name for name in PEOPLE if "FEA" not in name], TABLE, "without a clip of FEA"),
        ([name for name in PEOPLE if "NEU" not in name], TABLE, "NEU of female speakers or of NEU of male"),
        (PEOPLE[:2], TABLE, "1 people in the names"),
        (["somebody", "anybody"], TABLE, "named as CREMA-D"),
    ],
    ids=[
        "no table",
        "empty table",
        "one sex",
        "few people",
        "not sensitive",
        "no replacement",
        "one person",
        "no label",
    ],
)
def test_public_speech_that_cannot_train_it_is_refused_with_what_is_missing_and_how_to_get_it(
    tmp_path: Path, names: list[str], table: list[str] | None, found: str
) -> None:
    with pytest.raises(StudyError, match=found) as caught:
        prepare_public(study_of(public_speech=folder_of(tmp_path, names, table)))
    assert caught.value.expected and "public_speech" in caught.value.fix


def test_the_pinned_network_has_no_fault_and_reconstructs_voices_that_it_was_not_trained_on() -> None:
    made = ReplacementAutoencoder.from_arrays(prepare_public(study_of()))
    assert made.figures.faults() == ()
    places = made.places(public_rows(synthetic_speakers(7, voices=4, clips=6), in_windows=False).values)
    missed = np.square(made(places) - places).sum() / np.square(places - places.mean(axis=0)).sum()
    assert 1 - missed > 0.2
