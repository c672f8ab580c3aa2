from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from moretta.server.audit_log import AuditLog, verify_log
from moretta.shared.core.errors import HomeError

NOW = 1_800_000_000.0


def _log(path: Path, *, full_bytes: int = 1 << 20) -> AuditLog:
    return AuditLog(path, lambda: NOW, full_bytes=full_bytes)


def _filled(path: Path, lines: int = 5) -> AuditLog:
    log = _log(path)
    for number in range(lines):
        log.add("relay", site="clinic-a", number=number)
    return log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_lines_are_chained_and_only_their_owner_reads_them(path: Path) -> None:
    log = _filled(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["number"] for r in records] == list(range(5))
    assert [r["previous"] for r in records] == ["0" * 64, *(r["hash"] for r in records[:-1])]
    assert records[0]["time"] == "2027-01-15T08:00:00.000+00:00"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verified = verify_log(path)
    assert (verified.lines, verified.head) == (5, log.head)


@pytest.mark.parametrize("line", range(5))
@pytest.mark.parametrize("how", ["changed", "removed", "moved", "forged"])
def test_a_line_that_was_changed_removed_moved_or_forged_breaks_the_chain(path: Path, line: int, how: str) -> None:
    _filled(path)
    lines = path.read_text().splitlines(keepends=True)
    match how:
        case "changed":
            lines[line] = lines[line].replace("clinic-a", "clinic-b")
        case "removed":
            if line == 4:
                return  # see the test of a noted head
            del lines[line]
        case "moved":
            lines.insert((line + 2) % 5, lines.pop(line))
        case _:
            lines[line] = '{"event":"relay"}\n'
    path.write_text("".join(lines))
    with pytest.raises(HomeError, match="broken at line"):
        verify_log(path)


def test_lines_cut_off_the_end_are_found_by_a_head_that_was_noted(path: Path) -> None:
    head = _filled(path).head
    _log(path).add("later")
    assert verify_log(path, noted_head=head).lines == 6
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert verify_log(path).lines == 3
    with pytest.raises(HomeError, match="no line of the audit log has the hash"):
        verify_log(path, noted_head=head)


def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    head = _filled(path).head
    again = _log(path)
    assert again.head == head
    assert again.last_time == NOW
    again.add("server-started")
    assert verify_log(path).lines == 6


def test_half_a_line_that_a_power_cut_left_is_cut_off(path: Path) -> None:
    _filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"rel')
    _log(path).add("server-started")
    assert path.read_bytes().startswith(whole)
    assert verify_log(path).lines == 6


def test_a_damaged_last_line_is_reported_instead_of_written_after(path: Path) -> None:
    _filled(path)
    path.write_bytes(path.read_bytes()[:-3] + b"x}\n")
    with pytest.raises(HomeError, match="no line of an audit log"):
        _log(path)


def test_full_files_are_put_aside_and_the_chain_runs_through_them(path: Path) -> None:
    log = _log(path, full_bytes=1000)
    for number in range(30):
        log.add("relay", number=number)
    verified = verify_log(path)
    assert verified.lines == 30
    assert verified.files > 3
    assert _log(path, full_bytes=1000).head == log.head
    next(iter(sorted(path.parent.glob("audit-*.jsonl")))).unlink()
    with pytest.raises(HomeError, match="broken at line 1"):
        verify_log(path)


def _write_many(path: Path, name: str) -> None:
    log = _log(path, full_bytes=4000)
    for number in range(50):
        log.add("relay", site=name, number=number, sync=False)


def test_processes_that_write_at_once_make_one_chain(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(path, name)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert verify_log(path).lines == 150


def test_an_event_is_on_disk_before_its_response_and_calls_are_synced_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _log(path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    log.add("enrolled", site="a")
    assert synced == [path.stat().st_size]
    log.add("relay", sync=False)
    log.add("relay", sync=False)
    assert len(synced) == 1
    log.sync()
    log.sync()
    assert synced[1:] == [path.stat().st_size]


def test_a_log_that_an_earlier_version_began_still_holds_and_goes_on(path: Path) -> None:
    def canonical(record: dict[str, object]) -> str:
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    head, lines = "0" * 64, []
    for number in range(3):
        record: dict[str, object] = {"time": "2027-01-15T08:00:00.000+00:00", "event": "relay", "number": number}
        record["previous"] = head
        head = hashlib.sha256(canonical(record).encode()).hexdigest()
        lines.append(canonical({**record, "hash": head}) + "\n")
    path.write_text("".join(lines))
    log = _log(path)
    assert log.head == head
    log.add("relay", number=3)
    assert verify_log(path, noted_head=head).lines == 4
    path.write_text(path.read_text().replace('"number":1', '"number":9'))
    with pytest.raises(HomeError, match="line 2"):
        verify_log(path)
