"""The server's memory of privacy ledgers, over the real port: a site that restored a backup is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ports import RunningPort, SiteKeys, refusal

from moretta.client.accounting.ledger import Countersigned, Ledger, receipt_path, stored_receipt
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import site_channel
from moretta.deploy.server.server_admin import ServerAdmin
from moretta.server.audit_log import verify_log
from moretta.server.enrollment import countersign
from moretta.server.enrollment.countersign import MOST_ENTRIES, Countersigner
from moretta.server.home import ServerHome, ServerSettings
from moretta.shared.core.errors import EnrollmentError, RefusedError
from moretta.shared.messages.relay import BODY_BYTES_KEY
from moretta.shared.pb.enrollment_pb2 import CountersignHeadRequest


@pytest.fixture
def port(tmp_path: Path) -> Iterator[RunningPort]:
    port = RunningPort(tmp_path, None)
    yield port
    port.close()


Sign = Callable[[], None]


def _signing(port: RunningPort, identity: Identity, ledger: Path) -> Sign:
    """Asks as a site does, with a new process' memory."""

    async def ask() -> None:
        async with site_channel(identity) as channel:
            await Countersigned(ledger, identity).bring_up_to_date(channel)

    return lambda: port.run(ask())


@pytest.fixture
def site(port: RunningPort) -> SiteKeys:
    return port.enrolled()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.jsonl"


@pytest.fixture
def sign(port: RunningPort, site: SiteKeys, ledger: Path) -> Sign:
    return _signing(port, port.identity(site), ledger)


def _spend(path: Path, number: int) -> None:
    for _ in range(number):
        Ledger(path).spend("release", study="s")


def test_a_growing_ledger_is_countersigned_again_and_again(
    port: RunningPort, sign: Sign, ledger: Path, tmp_path: Path
) -> None:
    sign()  # before anything was spent
    for length in (2, 3, 6):
        _spend(ledger, length - Ledger(ledger).length)
        sign()
        receipt = stored_receipt(receipt_path(ledger))
        assert receipt is not None
        assert (receipt.site, receipt.length, receipt.head) == ("clinic-a", length, Ledger(ledger).head)
        assert receipt.unix_time == int(port.clock.now)
        receipt.verify(port.office.authority.certificate)
    sign()
    assert [e["length"] for e in _events(tmp_path, "ledger-countersigned")] == [2, 3, 6]


def _events(folder: Path, event: str) -> list[dict[str, Any]]:
    assert verify_log(folder / "audit.jsonl").lines
    lines = map(json.loads, (folder / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def test_a_restored_backup_is_refused_even_if_the_receipt_was_restored_with_it(
    port: RunningPort, sign: Sign, ledger: Path, tmp_path: Path
) -> None:
    _spend(ledger, 2)
    sign()
    shutil.copytree(ledger.parent, tmp_path / "backup")
    _spend(ledger, 3)
    sign()
    shutil.rmtree(ledger.parent)
    shutil.copytree(tmp_path / "backup", ledger.parent)
    with pytest.raises(RefusedError, match="of 2 entries; expected at least 5"):
        sign()
    _spend(ledger, 7)  # the site itself cannot tell, but longer is not enough
    with pytest.raises(RefusedError, match="entry 5 is not the one that was countersigned"):
        sign()
    port.guard.refusals.flush()
    refused = [(e["reason"], e.get("more")) for e in _events(tmp_path, "refused")]
    assert refused == [("old-ledger", None), ("old-ledger", 1)]


def test_a_lost_ledger_is_refused(sign: Sign, ledger: Path) -> None:
    _spend(ledger, 2)
    sign()
    shutil.rmtree(ledger.parent)
    with pytest.raises(RefusedError, match="of 0 entries; expected at least 2"):
        sign()


def test_the_server_remembers_through_a_restart_and_through_reenrollment(
    port: RunningPort, sign: Sign, ledger: Path, tmp_path: Path
) -> None:
    _spend(ledger, 3)
    sign()
    again = SiteKeys.new("clinic-a")
    join = port.office.join("clinic-a", reenroll=True)
    again.certificate = port.with_token(join).enroll(again).certificate_der
    under_new_keys = _signing(port, port.identity(again), ledger)
    _spend(ledger, 1)
    under_new_keys()  # the same file goes on
    other = tmp_path / "new-home" / "ledger.jsonl"
    with pytest.raises(RefusedError, match="of 0 entries; expected at least 4"):
        _signing(port, port.identity(again), other)()
    port.certificates.renew()  # and under another key of the server
    _spend(ledger, 1)
    under_new_keys()
    receipt = stored_receipt(receipt_path(ledger))
    assert receipt is not None
    assert receipt.length == 5


def test_sites_have_heads_of_their_own(port: RunningPort, sign: Sign, ledger: Path, tmp_path: Path) -> None:
    _spend(ledger, 3)
    sign()
    other = tmp_path / "other" / "ledger.jsonl"
    _spend(other, 1)
    _signing(port, port.identity(port.enrolled("other")), other)()


def test_a_revoked_site_and_one_with_a_join_string_alone_get_no_signature(port: RunningPort, site: SiteKeys) -> None:
    request, metadata = CountersignHeadRequest(), ((BODY_BYTES_KEY, "0"),)
    with pytest.raises(grpc.RpcError) as error:
        port.with_token(port.office.join("new")).enrollment.CountersignHead(request, timeout=20, metadata=metadata)
    assert refusal(error.value) == ("UNAUTHENTICATED", "not-enrolled")
    port.office.registry.end_site("clinic-a", "revoked")
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).enrollment.CountersignHead(request, timeout=20, metadata=metadata)
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")


def test_digests_that_are_none_are_refused(port: RunningPort, site: SiteKeys) -> None:
    request = CountersignHeadRequest(entry_digests=b"\x00" * 33)
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).enrollment.CountersignHead(request, timeout=20, metadata=((BODY_BYTES_KEY, "40"),))
    assert refusal(error.value) == ("INVALID_ARGUMENT", "bad-digests")


def test_a_ledger_of_many_entries_fits_into_one_call(port: RunningPort, site: SiteKeys) -> None:
    assert _countersigned(port, site, bytes(32 * 50_000)).length == 50_000


def _countersigned(port: RunningPort, site: SiteKeys, digests: bytes, declared: int | None = None) -> Any:
    request = CountersignHeadRequest(entry_digests=digests)
    metadata = ((BODY_BYTES_KEY, str(request.ByteSize() if declared is None else declared)),)
    return port.as_site(site).enrollment.CountersignHead(request, timeout=60, metadata=metadata)


def test_a_ledger_longer_than_any_can_be_is_refused_before_it_is_read(port: RunningPort, site: SiteKeys) -> None:
    """Ledgers of 80 MB took 2.3 GB and kept the database locked."""
    for declared in (80 << 20, 0):
        with pytest.raises(grpc.RpcError) as error:
            _countersigned(port, site, bytes(32 * (MOST_ENTRIES + 1024)), declared)
        assert refusal(error.value) == ("RESOURCE_EXHAUSTED", "too-large")
    with pytest.raises(grpc.RpcError) as error:
        _countersigned(port, site, bytes(32 * (MOST_ENTRIES + 1)))
    assert refusal(error.value) == ("INVALID_ARGUMENT", "bad-digests")


def test_the_database_is_free_while_a_ledger_is_hashed(
    port: RunningPort, site: SiteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others enroll while a ledger is looked at."""
    verified = countersign.verified_head

    def enrolling(*arguments: Any, **named: Any) -> tuple[str, int]:
        port.office.enroll(port.office.token("meanwhile"))
        return verified(*arguments, **named)

    monkeypatch.setattr(countersign, "verified_head", enrolling)
    assert _countersigned(port, site, bytes(32)).length == 1
    assert "meanwhile" in {s.name for s in port.office.registry.sites()}


def test_of_two_ledgers_that_are_looked_at_at_once_one_is_countersigned(
    port: RunningPort, site: SiteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = countersign.verified_head
    other = Countersigner(port.office.registry, port.certificates, port.audit, port.clock)

    def overtaken(*arguments: Any, **named: Any) -> tuple[str, int]:
        monkeypatch.setattr(countersign, "verified_head", verified)
        other.countersign(site.name, b"\x01" * 64)
        return verified(*arguments, **named)

    monkeypatch.setattr(countersign, "verified_head", overtaken)
    with pytest.raises(grpc.RpcError) as error:
        _countersigned(port, site, b"\x02" * 64)
    assert refusal(error.value) == ("UNAVAILABLE", "ledger-changed")
    with pytest.raises(grpc.RpcError) as error:
        _countersigned(port, site, b"\x02" * 64)
    assert refusal(error.value) == ("FAILED_PRECONDITION", "old-ledger")


def test_a_site_that_has_its_ledger_signed_without_end_is_slowed_down(port: RunningPort, site: SiteKeys) -> None:
    """Each costs a processor's time and a line of the log."""
    outcomes = set()
    for _ in range(61):
        try:
            _countersigned(port, site, bytes(32))
        except grpc.RpcError as error:
            outcomes.add(refusal(error))
    assert outcomes == {("RESOURCE_EXHAUSTED", "too-fast")}


def test_a_thief_s_ledger_that_shut_a_site_out_is_taken_back_by_the_operator_and_the_log_says_so(
    tmp_path: Path, sign: Sign, ledger: Path, port: RunningPort, site: SiteKeys
) -> None:
    _spend(ledger, 2)
    sign()
    known = b"".join(bytes.fromhex(digest) for digest in Ledger(ledger).digests)
    _countersigned(port, site, known + bytes(32))  # by somebody with the site's key
    _spend(ledger, 2)
    with pytest.raises(RefusedError, match="entry 3 is not the one that was countersigned"):
        sign()
    settings = ServerSettings(address="a:1", listen="a:1", names=("a",))
    admin = ServerAdmin(ServerHome(tmp_path, settings), port.office.registry, port.audit)
    with pytest.raises(EnrollmentError, match=r"no countersigned ledger of clinic-a with 1 entries; .* 2, 3"):
        admin.reset_ledger("clinic-a", 1)
    with pytest.raises(EnrollmentError, match="no privacy ledger of a site ghost"):
        admin.reset_ledger("ghost", 0)
    done = admin.reset_ledger("clinic-a", 2)
    assert (done.was_length, done.length) == (3, 2)
    sign()
    (line,) = _events(tmp_path, "ledger-reset")
    assert (line["site"], line["was_length"], line["was_head"], line["length"]) == ("clinic-a", 3, done.was_head, 2)
    assert admin.reset_ledger("clinic-a", 0).was_length == 4
    _countersigned(port, site, bytes(32))
