"""Statement and ledgers of a study with a budget for clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger

DELTA = 1e-5
RELEASE = "voice release: randomized response among public codewords"


def assert_ledgers(out: Path, *, sites: int, clips: int, spent: dict[str, float]) -> None:
    """Its report states for each site, at both units, `spent` on its release, and so does the site's ledger."""
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert found["corpus"]["clips"] == clips
    assert [row["name"] for row in found["run"]["stages"]][:2] == ["codebook", "release"]
    rows = {(row["site"], row["mechanism"], row["unit"]): row for row in found["privacy"]}
    for number in range(sites):
        site = f"site-0{number}"
        stated = {unit: rows[site, RELEASE, unit]["epsilon"] for unit in ("clip", "speaker")}
        assert stated == pytest.approx(spent)
        assert rows[site, RELEASE, "clip"]["nominal"] == 8.0
        ledger = Ledger(out / "sites" / site / "ledger.jsonl")
        assert len(ledger.entries("release")) == 1
        account = Account.read(ledger)
        for unit, epsilon in stated.items():
            assert account.epsilon(unit, "server", delta=DELTA) == pytest.approx(epsilon)  # type: ignore[arg-type]
    assert "randomized response among public codewords" in (out / "report.html").read_text(encoding="utf-8")
