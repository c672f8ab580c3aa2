"""Whole studies by clip and by speaker, by a budget: what the report says is what the ledgers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.shared.core.errors import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MORETTA = Path(sys.executable).parent / "moretta"
DELTA = 1e-5
STUDY = """
sites = 2
[voice]
anonymizer = "clip-quantizer"
form = "{form}"
[voice.options]
preset = "{preset}"
codebook_size = 16
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
RELEASE = "voice release: randomized response among public words"


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
    assert [row["name"] for row in report["run"]["stages"]][:2] == ["codebook", "release"]
    rows = {(row["site"], row["mechanism"], row["unit"]): row for row in report["privacy"]}
    for site in ("site-00", "site-01"):
        found = {unit: rows[site, RELEASE, unit]["epsilon"] for unit in ("clip", "speaker")}
        assert found == pytest.approx(released)
        assert rows[site, RELEASE, "clip"]["nominal"] == 8.0
        _check_ledger(out / "sites" / site / "ledger.jsonl", found)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "randomized response among public words" in page


def _check_ledger(path: Path, found: dict[str, float]) -> None:
    ledger = Ledger(path)
    assert len(ledger.entries("release")) == 1
    account = Account.read(ledger)
    for unit, epsilon in found.items():
        assert account.epsilon(unit, "server", delta=DELTA) == pytest.approx(epsilon)  # type: ignore[arg-type]
