from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from moretta.client.ledger import Ledger
from moretta.shared.errors import RefusedError


def _filled(path: Path) -> Ledger:
    ledger = Ledger(path)
    for number in range(3):
        ledger.spend("dp-sgd", study="s", steps=number)
    return ledger


def test_entries_survive_a_restart_in_order_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = _filled(path).head
    again = Ledger(path)
    assert [e["steps"] for e in again.entries("dp-sgd", study="s")] == [0, 1, 2]
    assert again.head == head
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_entry_is_on_disk_before_spend_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    Ledger(path).spend("dp-sgd", steps=1)
    assert synced == [path.stat().st_size]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_entry_is_refused(tmp_path: Path, line: int) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    records = [json.loads(text) for text in path.read_text().splitlines()]
    records[line]["entry"]["steps"] = 99
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(RefusedError, match=f"line {line + 1}"):
        Ledger(path)


def test_a_removed_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(RefusedError, match="broken at line 2"):
        Ledger(path)


def test_a_kill_in_the_middle_of_a_write_leaves_a_ledger_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        ledger = Ledger(path)
        assert len(ledger.entries("dp-sgd")) == 2
        ledger.spend("dp-sgd", steps=7)
        assert [e["steps"] for e in Ledger(path).entries("dp-sgd")] == [0, 1, 7]
