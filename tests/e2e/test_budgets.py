"""Whole studies by clip and by speaker, over a federated codebook: what the report says is what the ledgers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moretta.client.account import Account
from moretta.client.ledger import Ledger
from moretta.shared.exit_codes import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MORETTA = Path(sys.executable).parent / "moretta"
DELTA = 1e-5
STUDY = """
sites = 2
[voice]
preset = "{preset}"
form = "{form}"
codebook = "federated"
codebook_size = 16
codebook_epsilon = 3.0
codebook_iterations = 2
[face]
enabled = false
[train]
rounds = 1
[split]
folds = 2
[audit]
attackers = ["voice-logistic", "voice-wccn"]
bootstrap = 20
"""
RELEASE, CODEBOOK = (
    "voice release: randomized response among public words",
    "voice release: DP Lloyd for the federated codebook",
)


@pytest.mark.parametrize(
    ("preset", "form", "clips", "released"),
    [
        ("dp-clip", "code-tokens", 48, {"clip": 8.0, "speaker": 12 * 8.0}),
        ("dp-speaker", "code", 16, {"clip": 8.0, "speaker": 8.0}),
    ],
)
def test_a_study_tells_at_both_units_what_its_ledgers_hold(
    tmp_path: Path, tiny_corpus: Path, *, preset: str, form: str, clips: int, released: dict[str, float]
) -> None:
    study, out = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(STUDY.format(preset=preset, form=form), encoding="utf-8")
    done = subprocess.run(
        [MORETTA, "simulate", "--corpus", tiny_corpus, "--study", study, "--out", out],
        env={**os.environ, "MORETTA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["corpus"]["clips"] == clips
    assert [row["name"] for row in report["run"]["stages"]][:3] == ["codebook", "federated codebook", "release"]
    rows = {(row["site"], row["mechanism"], row["unit"]): row for row in report["privacy"]}
    for site in ("site-00", "site-01"):
        found = {u: {m: rows[site, m, u]["epsilon"] for m in (RELEASE, CODEBOOK)} for u in ("clip", "speaker")}
        assert {unit: parts[RELEASE] for unit, parts in found.items()} == pytest.approx(released)
        assert found["speaker"][CODEBOOK] == pytest.approx(3.0, rel=1e-4)
        assert rows[site, CODEBOOK, "speaker"]["nominal"] == 3.0
        assert rows[site, RELEASE, "clip"]["nominal"] == 8.0
        _check_ledger(out / "sites" / site / "ledger.jsonl", found)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "randomized response among public words" in page
    assert "DP Lloyd for the federated codebook" in page


def _check_ledger(path: Path, found: dict[str, dict[str, Any]]) -> None:
    ledger = Ledger(path)
    assert [e["iteration"] for e in ledger.entries("codebook")] == [1, 2]
    assert len(ledger.entries("release")) == 1
    account = Account.read(ledger)
    for unit, parts in found.items():
        spent = account.epsilon(unit, "server", delta=DELTA)  # type: ignore[arg-type]
        assert max(parts.values()) < (spent or 0) <= sum(parts.values()) * (1 + 1e-6)
