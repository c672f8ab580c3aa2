"""Whole studies by clip and by speaker, by a budget: what the report says is what the ledgers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.shared.core.errors import ExitCode
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MORETTA = Path(sys.executable).parent / "moretta"
DELTA = 1e-5
STUDY = """
[voice]
anonymizer = "clip-quantizer"
form = "{form}"
[voice.options]
preset = "{preset}"
codebook_size = 16
[face]
enabled = false
[audit]
attackers = ["voice-logistic"]
bootstrap = 0
inference = false
utility = false
"""
RELEASE = "voice release: randomized response among public codewords"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs a study; returns the folder of the run."""
    home = tmp_path_factory.mktemp("budgets")

    def start(name: str, study: str, speakers: int) -> Path:
        path, out = home / f"{name}.toml", home / name
        path.write_text(study, encoding="utf-8")
        corpus = write_tone_corpus(home / f"{name}-tones", speakers=speakers)
        done = subprocess.run(
            [MORETTA, "simulate", "--corpus", corpus, "--study", path, "--out", out],
            env={**os.environ, "MORETTA_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stderr
        return out

    return start


@pytest.fixture(scope="module")
def by_clip(run: Callable[..., Path]) -> Path:
    study = "sites = 2\ntrain = { rounds = 1 }\nsplit = { folds = 2 }\n"
    return run("by-clip", study + STUDY.format(preset="dp-clip", form="code-tokens"), speakers=4)


@pytest.fixture(scope="module")
def by_speaker(run: Callable[..., Path]) -> Path:
    """Trained under secure aggregation, with the sites' own noise."""
    study = 'sites = 4\ntrain = { rounds = 2 }\naggregation = { dp = "distributed", secure = true, epsilon = 5.0 }\n'
    return run("by-speaker", study + STUDY.format(preset="dp-speaker", form="code"), speakers=8)


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("fixture", "sites", "clips", "released"),
    [
        ("by_clip", 2, 48, {"clip": 8.0, "speaker": 12 * 8.0}),
        ("by_speaker", 4, 32, {"clip": 8.0, "speaker": 8.0}),
    ],
)
def test_a_study_states_at_both_units_what_its_ledgers_hold(
    request: pytest.FixtureRequest, fixture: str, sites: int, clips: int, released: dict[str, float]
) -> None:
    out: Path = request.getfixturevalue(fixture)
    found = report(out)
    assert found["corpus"]["clips"] == clips
    assert [row["name"] for row in found["run"]["stages"]][:2] == ["codebook", "release"]
    rows = {(row["site"], row["mechanism"], row["unit"]): row for row in found["privacy"]}
    for number in range(sites):
        site = f"site-0{number}"
        spent = {unit: rows[site, RELEASE, unit]["epsilon"] for unit in ("clip", "speaker")}
        assert spent == pytest.approx(released)
        assert rows[site, RELEASE, "clip"]["nominal"] == 8.0
        _check_ledger(out / "sites" / site / "ledger.jsonl", spent)
    assert "randomized response among public codewords" in (out / "report.html").read_text(encoding="utf-8")


def _check_ledger(path: Path, found: dict[str, float]) -> None:
    ledger = Ledger(path)
    assert len(ledger.entries("release")) == 1
    account = Account.read(ledger)
    for unit, epsilon in found.items():
        assert account.epsilon(unit, "server", delta=DELTA) == pytest.approx(epsilon)  # type: ignore[arg-type]


def test_a_study_under_secure_aggregation_with_the_sites_own_noise_trains_and_states_what_it_guarantees(
    by_speaker: Path,
) -> None:
    """Through Flower's messages: the server's folder has models, and no update of any site."""
    found = report(by_speaker)
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
