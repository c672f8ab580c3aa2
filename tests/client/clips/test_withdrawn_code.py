"""A code that sites train is trained on clips that are there, from its first round to its last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import TRUSTED, approve, enrolled
from flwr.app import RecordDict
from requested import CHANGED, POLICY, RequestStage

from moretta.client.accounting.ledger import Ledger
from moretta.shared.features.emotion_encoder import first_arrays
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import public_rows, train_speaker_code
from moretta.shared.messages import wire
from moretta.shared.study.schema import parse_study

VOICE = {
    "anonymizer": "speaker-normalized",
    "code_training": "federated",
    "code_epsilon": 3.0,
    "code_rounds": 2,
    "codebook_size": 16,
}


@pytest.fixture(scope="module")
def first() -> dict[str, Any]:
    rows = public_rows(synthetic_speakers(1, voices=4, clips=12), in_windows=False)
    return dict(first_arrays(rows, train_speaker_code(rows, size=5, codebook_size=16, seed=1)))


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path) -> RequestStage:
    policy = POLICY.replace(TRUSTED, 'without_guarantee = ["speaker-normalized"]\n')
    home = enrolled(tmp_path / "site", tiny_corpus, policy=f"{policy}server_clip = inf\n", held_out=("1001",))
    study = parse_study({"sites": 2, "face": {"enabled": False}, "voice": VOICE})
    approve(home, study, {})
    return RequestStage(home, tiny_corpus, {}, study=study)


def trained(site: RequestStage, number: int, weights: dict[str, Any]) -> dict[str, Any]:
    content = RecordDict({wire.CONFIG: wire.study_config(site.study), wire.ARRAYS: wire.arrays_to_record(weights)})
    content[wire.CONFIG]["server-round"] = number  # type: ignore[index]
    return site.call(wire.CODE, content)


def taught_by(site: RequestStage) -> list[int]:
    """How many speakers each round on the ledger is about."""
    ledger = Ledger(site.home.root / "ledger.jsonl")
    cohorts = {entry["cohort"]: len(entry["speakers"]) for entry in ledger.entries("cohort")}
    return [cohorts[entry["cohort"]] for entry in ledger.entries("code")]


def test_a_code_is_not_trained_on_with_a_person_who_left_between_two_rounds(site: RequestStage, first: Any) -> None:
    assert "failure" not in trained(site, 1, first)
    site.delete("1004")
    assert trained(site, 2, first)["failure"] == CHANGED
    assert trained(site, 1, first)["failure"] == CHANGED  # nor is the kept response sent again
    assert not list((site.home.root / "updates").rglob("*.safetensors"))
    assert taught_by(site) == [3]


def test_the_same_study_run_again_trains_its_code_anew_without_the_person_and_pays_for_it(
    site: RequestStage, first: Any
) -> None:
    trained(site, 1, first)
    site.delete("1004")
    assert trained(site, 2, first)["failure"] == CHANGED
    site.run = 2
    again = {name: np.asarray(array) for name, array in first.items()}
    assert "failure" not in trained(site, 1, again)
    other = {**again, "emotion.bias": np.ones_like(again["emotion.bias"])}  # as another first round leads to
    assert "failure" not in trained(site, 2, other)
    assert taught_by(site) == [3, 2, 2]
    assert "failure" in trained(site, 2, again)  # within one run a round has one response, as ever


def test_clips_that_come_between_two_rounds_have_no_part_in_the_second(site: RequestStage, first: Any) -> None:
    trained(site, 1, first)
    for path in site.clips("1004"):
        shutil.copy(path, path.with_name(path.name.replace("1004", "1006")))
    assert "failure" not in trained(site, 2, first)
    assert taught_by(site) == [3, 3]
