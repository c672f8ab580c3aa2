from __future__ import annotations

import json
from pathlib import Path

from moretta.server.audit_log import AuditLog
from moretta.server.port.refusals import Refusal, RefusalNotes


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_flood_of_refusals_is_one_line_and_one_count_a_minute(tmp_path: Path) -> None:
    now = [0.0]
    notes = RefusalNotes(AuditLog(tmp_path / "audit.jsonl", lambda: 0.0), lambda: now[0])
    for _ in range(1000):
        notes.note("unknown", "Call", Refusal("UNAUTHENTICATED", "unknown-certificate", "m"))
    notes.note("clinic-a", "Call", Refusal("PERMISSION_DENIED", "replayed", "m"))
    assert [line["reason"] for line in _lines(tmp_path / "audit.jsonl")] == ["unknown-certificate", "replayed"]
    now[0] = 61.0
    notes.note("clinic-a", "Call", Refusal("PERMISSION_DENIED", "replayed", "m"))
    lines = _lines(tmp_path / "audit.jsonl")[2:]
    assert [(line["reason"], line.get("more")) for line in lines] == [("unknown-certificate", 999), ("replayed", None)]


def test_many_kinds_of_refusal_do_not_fill_memory_or_disk(tmp_path: Path) -> None:
    notes = RefusalNotes(AuditLog(tmp_path / "audit.jsonl", lambda: 0.0), lambda: 0.0)
    for number in range(3000):
        notes.note(f"token:{number}", "Call", Refusal("UNAUTHENTICATED", "not-enrolled", "m"))
    notes.flush()
    lines = _lines(tmp_path / "audit.jsonl")
    assert len(lines) == 1001
    assert lines[-1]["more"] == 2000
