"""A whole study by a budget for each speaker: what the report says is what the ledgers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import one_cpu
from ledgers import assert_ledgers

from moretta.shared.core.errors import ExitCode
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MORETTA = Path(sys.executable).parent / "moretta"
STUDY = """
sites = 4
[voice]
anonymizer = "clip-quantizer"
form = "code"
[voice.options]
preset = "dp-speaker"
codebook_size = 16
[face]
enabled = false
[train]
rounds = 2
[aggregation]
dp = "distributed"
secure = true
epsilon = 5.0
[audit]
attackers = ["voice-logistic"]
bootstrap = 0
inference = false
utility = false
"""


@pytest.fixture(scope="module")
def by_speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was trained under secure aggregation, with the sites' own noise."""
    home = tmp_path_factory.mktemp("budgets")
    (home / "study.toml").write_text(STUDY, encoding="utf-8")
    arguments = ["--corpus", write_tone_corpus(home / "tones", speakers=8), "--study", home / "study.toml"]
    with one_cpu():
        done = subprocess.run(
            [MORETTA, "simulate", *arguments, "--out", home / "out"],
            env={**os.environ, "MORETTA_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    return home / "out"


def test_the_report_states_at_both_units_what_the_ledgers_hold(by_speaker: Path) -> None:
    assert_ledgers(by_speaker, sites=4, clips=32, spent={"clip": 8.0, "speaker": 8.0})


def test_a_study_under_secure_aggregation_with_the_sites_own_noise_trains_and_states_what_it_guarantees(
    by_speaker: Path,
) -> None:
    """Through Flower's messages: the server's folder has models, and no update of any site."""
    found = json.loads((by_speaker / "report.json").read_text(encoding="utf-8"))
    assert [(r["sites"], r["failed"], r["loss"]) for r in found["run"]["rounds"]] == [(4, 0, None)] * 2
    rows = [r for r in found["privacy"] if r["unit"] == "site"]
    assert len(rows) == 4
    assert all(r["epsilon"] == pytest.approx(5.0, rel=1e-6) and "sees the sum alone" in r["note"] for r in rows)
    assert list((by_speaker / "server" / "checkpoints").iterdir())
    assert not (by_speaker / "server" / "updates").exists()
    for site in (by_speaker / "sites").iterdir():
        sessions = list(site.glob("secure/*/voice.json"))
        assert len(sessions) == 1
        assert json.loads(sessions[0].read_text(encoding="utf-8"))["seed"] == ""  # gone with the end of the round
