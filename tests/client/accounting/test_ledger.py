from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from killing import Action, Killed, forked, kill_at_every_write

from moretta.client.accounting.ledger import Ledger, keep_receipt, opened, receipt_path, stored_receipt
from moretta.shared.core.errors import RefusedError
from moretta.shared.privacy.chain import START, SignedHead, heads, verified_head


def _filled(path: Path) -> Ledger:
    ledger = Ledger(path)
    for number in range(3):
        ledger.spend("dp-sgd", study="s", steps=number)
    return ledger


def _steps(path: Path) -> list[int]:
    return [e["steps"] for e in Ledger(path).entries("dp-sgd")]


def test_entries_survive_a_restart_in_order_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = _filled(path).head
    again = Ledger(path)
    assert [e["steps"] for e in again.entries("dp-sgd", study="s")] == [0, 1, 2]
    assert again.head == head
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_entry_and_the_name_of_a_new_file_are_on_disk_before_spend_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    synced: list[tuple[bool, int]] = []

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(status.st_mode), status.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    Ledger(path).spend("dp-sgd", steps=1)
    assert synced[0] == (False, path.stat().st_size)
    assert synced[1][0]  # the folder: without it a power cut may leave a file without a name


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_entry_is_refused(tmp_path: Path, line: int) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    records = [json.loads(text) for text in path.read_text().splitlines()]
    records[line]["entry"]["steps"] = 99
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(RefusedError, match=f"line {line + 1}"):
        Ledger(path)


def test_a_ledger_is_read_again_only_once_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    first = opened(path)
    first.spend("dp-sgd", steps=3)
    assert opened(path) is first
    Ledger(path).spend("dp-sgd", steps=4)  # as another process would
    assert [e["steps"] for e in opened(path).entries("dp-sgd")] == [0, 1, 2, 3, 4]


def test_a_changed_entry_of_a_ledger_that_is_open_is_refused_whatever_its_file_s_length_and_time_are(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    opened(path)
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace('"steps": 1', '"steps": 0'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(RefusedError, match="line 2"):
        opened(path)


def test_a_removed_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(RefusedError, match="broken at line 2"):
        Ledger(path)


@pytest.mark.parametrize("line", ["", "null", "[]", '{"entry": 3}', "\x00\x00", '{"entry": {}, "previous": "x"}'])
def test_a_line_that_is_no_entry_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RefusedError, match="broken at line 4"):
        Ledger(path)


def test_a_line_without_its_end_is_cut_off_by_the_next_entry_and_left_alone_by_readers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    _filled(path)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        ledger = Ledger(path)
        assert path.read_bytes() == whole[:cut]
        assert len(ledger.entries("dp-sgd")) == 2
        ledger.spend("dp-sgd", steps=7)
        assert _steps(path) == [0, 1, 7]


def test_killed_at_any_write_it_counts_at_least_what_could_have_left_and_goes_on(tmp_path: Path) -> None:
    places = (tmp_path / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        path = next(places) / "ledger.jsonl"

        def spend_thrice(done: Any) -> None:
            for number in range(3):
                Ledger(path).spend("dp-sgd", steps=number)
                done()  # from here on the data may be on its way

        def check(outcome: Killed) -> None:
            found = _steps(path)
            assert outcome.done <= len(found) <= outcome.done + 1
            assert found == list(range(len(found)))
            Ledger(path).spend("dp-sgd", steps=99)
            assert _steps(path) == [*found, 99]

        return spend_thrice, check

    assert kill_at_every_write(prepare) >= 2 * 3 * 2  # three entries, a write and a sync each, before and after


def test_a_kill_while_the_rest_of_a_killed_write_is_cut_off_loses_nothing(tmp_path: Path) -> None:
    places = (tmp_path / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        path = next(places) / "ledger.jsonl"
        _filled(path)
        with path.open("ab") as file:
            file.write(b'{"entry": {"kind": "dp-s')

        def spend(done: Any) -> None:
            Ledger(path).spend("dp-sgd", steps=3)
            done()

        def check(outcome: Killed) -> None:
            found = _steps(path)
            assert found in ([0, 1, 2], [0, 1, 2, 3])
            assert len(found) >= 3 + outcome.done

        return spend, check

    assert kill_at_every_write(prepare) >= 6


def test_a_full_disk_leaves_the_old_ledger_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger, real = _filled(path), os.write
    before = path.read_bytes()
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError, match="disk is full"):
        ledger.spend("dp-sgd", steps=3)
    monkeypatch.undo()
    assert path.read_bytes() == before
    ledger.spend("dp-sgd", steps=4)
    assert _steps(path) == [0, 1, 2, 4]


def test_two_openings_of_one_ledger_see_each_others_entries(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    one, two = Ledger(path), Ledger(path)
    for number in range(4):
        (one, two)[number % 2].spend("dp-sgd", steps=number)
    assert _steps(path) == [0, 1, 2, 3]


def test_processes_that_write_at_once_do_not_fork_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"

    def write(name: str) -> None:
        for number in range(40):
            Ledger(path).spend("dp-sgd", writer=name, steps=number)

    writers = [forked(lambda name=name: write(name)) for name in "abc"]
    assert [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers] == [0, 0, 0]
    ledger = Ledger(path)
    assert ledger.length == 120
    for name in "abc":
        assert [e["steps"] for e in ledger.entries("dp-sgd", writer=name)] == list(range(40))


def test_a_check_that_refuses_keeps_the_entry_out_and_sees_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    mine, other = Ledger(path), Ledger(path)
    other.spend("dp-sgd", steps=1)

    def check() -> None:
        if mine.entries("dp-sgd"):
            raise RefusedError("enough")

    with pytest.raises(RefusedError, match="enough"):
        mine.spend("dp-sgd", check=check, steps=2)
    assert _steps(path) == [1]


def test_a_ledger_that_gets_shorter_under_a_running_site_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = _filled(path)
    path.write_bytes(b"")
    with pytest.raises(RefusedError, match="shorter"):
        ledger.spend("dp-sgd", steps=3)


@pytest.fixture
def countersigned(tmp_path: Path, authority: Any) -> Path:
    """A ledger of three entries, the first two of which the server has countersigned."""
    path = tmp_path / "ledger.jsonl"
    for number in range(2):
        Ledger(path).spend("dp-sgd", steps=number)
    ledger = Ledger(path)
    keep_receipt(receipt_path(path), authority.sign("clinic", ledger.head, ledger.length), authority.ca, site="clinic")
    ledger.spend("dp-sgd", steps=2)
    return path


def test_a_ledger_may_be_longer_than_its_receipt_says_and_never_shorter(countersigned: Path) -> None:
    lines = countersigned.read_text().splitlines(keepends=True)
    assert Ledger(countersigned).length == 3
    countersigned.write_text("".join(lines[:2]))
    assert Ledger(countersigned).length == 2
    countersigned.write_text(lines[0])
    with pytest.raises(RefusedError, match="has 1 entries; expected at least 2, which the server has countersigned"):
        Ledger(countersigned)
    countersigned.unlink()
    with pytest.raises(RefusedError, match="has 0 entries"):
        Ledger(countersigned)


def test_a_restored_backup_that_has_grown_past_the_receipt_is_seen_through(countersigned: Path) -> None:
    """Longer than what was countersigned, and yet another chain: its length alone would not tell."""
    lines = countersigned.read_text().splitlines(keepends=True)
    receipt = receipt_path(countersigned)
    kept = receipt.read_bytes()
    receipt.unlink()
    countersigned.write_text(lines[0])
    ledger = Ledger(countersigned)
    for number in range(5):
        ledger.spend("dp-sgd", steps=100 + number)
    receipt.write_bytes(kept)
    with pytest.raises(RefusedError, match="not the one whose head the server has countersigned"):
        Ledger(countersigned)


def test_a_rollback_under_a_running_site_stops_it_at_the_next_entry(countersigned: Path, authority: Any) -> None:
    """A receipt that comes in while the ledger is open counts, too."""
    ledger = Ledger(countersigned)
    other = [*ledger.digests, "0" * 64]
    signed = authority.sign("clinic", list(heads(other))[-1], len(other))
    keep_receipt(receipt_path(countersigned), signed, authority.ca, site="clinic")
    with pytest.raises(RefusedError, match="has 3 entries"):
        ledger.spend("dp-sgd", steps=3)


def test_a_receipt_is_kept_whole_or_not_at_all(tmp_path: Path, authority: Any) -> None:
    places = (tmp_path / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        path = next(places) / "ledger.jsonl"
        ledger = _filled(path)
        chain = list(heads(ledger.digests))
        keep_receipt(receipt_path(path), authority.sign("clinic", chain[1], 1), authority.ca, site="clinic")
        newer = authority.sign("clinic", chain[3], 3)

        def keep(done: Any) -> None:
            keep_receipt(receipt_path(path), newer, authority.ca, site="clinic")
            done()

        def check(outcome: Killed) -> None:
            kept = stored_receipt(receipt_path(path))
            assert kept is not None
            assert kept.length in ((3,) if outcome.done else (1, 3))
            assert Ledger(path).length == 3

        return keep, check

    assert kill_at_every_write(prepare) >= 4


def test_a_receipt_that_the_server_did_not_sign_for_this_site_is_not_kept(
    tmp_path: Path, authority: Any, other_authority: Any
) -> None:
    path = receipt_path(tmp_path / "ledger.jsonl")
    good = authority.sign("clinic", "a" * 64, 3)
    forged: list[tuple[SignedHead, str]] = [
        (other_authority.sign("clinic", "a" * 64, 3), "did not sign"),
        (good.model_copy(update={"length": 4}), "did not sign"),
        (good.model_copy(update={"head": "b" * 64}), "did not sign"),
        (good.model_copy(update={"site": "other"}), "did not sign"),
        (good.model_copy(update={"signature": "!"}), "did not sign"),
        (good.model_copy(update={"certificate_der": ""}), "did not sign"),
        (authority.sign("other", "a" * 64, 3), "a receipt for 'other'"),
        (authority.sign("clinic", "a" * 64, 3, by="site"), "not a server's"),
        (authority.sign("clinic", "a" * 64, 3, unix_time=1), "not a server's, or was not valid then"),
    ]
    for receipt, why in forged:
        with pytest.raises(RefusedError, match=why):
            keep_receipt(path, receipt, authority.ca, site="clinic")
        assert not path.exists()
    keep_receipt(path, good, authority.ca, site="clinic")
    with pytest.raises(RefusedError, match="expected one for at least 3"):
        keep_receipt(path, authority.sign("clinic", "c" * 64, 2), authority.ca, site="clinic")
    assert stored_receipt(path) == good


def test_a_receipt_that_cannot_be_read_stops_the_site(countersigned: Path) -> None:
    receipt_path(countersigned).write_text("{}")
    with pytest.raises(RefusedError, match="cannot be read"):
        Ledger(countersigned)


def test_the_server_countersigns_what_continues_and_refuses_what_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = _filled(path)
    head, length = verified_head(ledger.digests)
    assert (head, length) == (ledger.head, 3)
    assert verified_head(ledger.digests, known_head=head, known_length=length) == (head, length)
    backup = tmp_path / "backup.jsonl"
    shutil.copy(path, backup)
    ledger.spend("dp-sgd", steps=3)
    newer = verified_head(ledger.digests, known_head=head, known_length=length)
    assert newer == (ledger.head, 4)
    restored = Ledger(backup)
    with pytest.raises(RefusedError, match="of 3 entries; expected at least 4"):
        verified_head(restored.digests, known_head=newer[0], known_length=4)
    for number in range(3):
        restored.spend("dp-sgd", steps=50 + number)
    with pytest.raises(RefusedError, match="entry 4 is not the one"):
        verified_head(restored.digests, known_head=newer[0], known_length=4)
    assert verified_head([]) == (START, 0)


def test_equal_losses_do_not_make_equal_entries(tmp_path: Path) -> None:
    """Or a restored backup that spends the same again would pass for the ledger it was."""
    one, two = Ledger(tmp_path / "a", clock=lambda: 1.0), Ledger(tmp_path / "b", clock=lambda: 1.0)
    for ledger in (one, two):
        ledger.spend("dp-sgd", steps=1)
    assert one.head != two.head


def test_digests_reveal_the_head_to_the_server_and_nothing_of_the_entries(tmp_path: Path) -> None:
    ledger = _filled(tmp_path / "ledger.jsonl")
    assert list(heads(ledger.digests))[-1] == ledger.head
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in ledger.digests)
