from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from offices import Office, new_node_key
from sqlalchemy import inspect, text

from moretta.server.enrollment.authority import Issued
from moretta.server.enrollment.database import HEAD, Base
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.port.refusals import Refusal
from moretta.shared.core.errors import EnrollmentError, HomeError
from moretta.shared.enrollment import derive_bootstrap


def _reason(refused: pytest.ExceptionInfo[Refusal]) -> tuple[str, str]:
    return refused.value.kind, refused.value.reason


def test_a_token_enrolls_its_site_once(office: Office) -> None:
    token = office.token()
    issued = office.enroll(token)
    known = office.registry.certificate(issued.fingerprint)
    assert known is not None
    assert (known.site, known.revoked, known.not_after) == ("clinic-a", False, office.clock.now + 24 * 3600)
    assert office.registry.outstanding_tokens() == []
    with pytest.raises(Refusal) as refused:
        office.enroll(token)
    assert _reason(refused) == ("PERMISSION_DENIED", "token-used")


def test_a_token_under_20_concurrent_uses_has_exactly_one_winner(office: Office) -> None:
    token, barrier = office.token(), Barrier(20)

    def use(_: int) -> str:
        barrier.wait()
        try:
            office.enroll(token)
        except Refusal as refusal:
            return refusal.reason
        return "enrolled"

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(use, range(20)))
    assert sorted(outcomes) == ["enrolled", *["token-used"] * 19]
    assert len(office.registry.sites()) == len(office.registry.node_keys()) == 1


def test_a_token_that_expired_or_was_superseded_is_not_taken(office: Office) -> None:
    first, second = office.token(), office.token()
    assert [t.token_id for t in office.registry.outstanding_tokens()] == [second.token_id]
    office.clock.now += 3600
    for token in (first, second):
        assert office.registry.token(token.fingerprint) is None
        before = office.state()
        with pytest.raises(Refusal) as refused:
            office.enroll(token)
        assert _reason(refused) == ("PERMISSION_DENIED", "token-used")
        assert office.state() == before


def test_a_taken_name_with_a_new_key_is_refused_and_nothing_changes(office: Office, tmp_path: Path) -> None:
    office.enroll(office.token())
    with pytest.raises(EnrollmentError, match="the name clinic-a is taken"):
        office.token()
    token = office.token(reenroll=True)
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:  # as if it had been printed before the name was
        connection.execute("UPDATE tokens SET reenroll = 0")
    connection.close()
    token = replace(token, reenroll=False)
    before = office.state()
    with pytest.raises(Refusal) as refused:
        office.enroll(token)
    assert _reason(refused) == ("ALREADY_EXISTS", "name-taken")
    assert office.state() == before


def test_a_name_comes_back_with_new_keys_only_when_the_coordinator_says_so(office: Office) -> None:
    old_key, new_key = new_node_key(), new_node_key()
    old = office.enroll(office.token(), old_key)
    new = office.enroll(office.token(reenroll=True), new_key)
    old_known, new_known = office.registry.certificate(old.fingerprint), office.registry.certificate(new.fingerprint)
    assert old_known is not None
    assert new_known is not None
    assert old_known.revoked
    assert not new_known.revoked
    assert new_known.node_key == new_key
    assert {k.public_key: k.current for k in office.registry.node_keys()} == {old_key: False, new_key: True}


def test_a_site_that_comes_back_may_keep_its_node_key_but_not_one_it_gave_up(office: Office) -> None:
    key = new_node_key()
    office.enroll(office.token(), key)
    office.registry.set_node_id(key, 2**64 - 1)
    office.enroll(office.token(reenroll=True), key)
    assert office.registry.sites()[0].node_id == 2**64 - 1
    office.enroll(office.token(reenroll=True))
    before = office.state()
    token = office.token(reenroll=True)
    with pytest.raises(Refusal) as refused:
        office.enroll(token, key)
    assert _reason(refused) == ("FAILED_PRECONDITION", "retired-node-key")
    assert office.registry.token(token.fingerprint) == token
    assert office.state()[:2] == before[:2]
    assert office.registry.node_names() == {2**64 - 1: "clinic-a"}


def test_the_node_key_of_another_site_is_refused(office: Office) -> None:
    key = new_node_key()
    office.enroll(office.token("one"), key)
    token = office.token("two")
    with pytest.raises(Refusal) as refused:
        office.enroll(token, key)
    assert _reason(refused) == ("PERMISSION_DENIED", "foreign-node-key")
    assert [s.name for s in office.registry.sites()] == ["one"]
    assert office.registry.token(token.fingerprint) == token


def test_a_failure_while_signing_changes_nothing(office: Office) -> None:
    token = office.token()

    def fail() -> Issued:
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        office.registry.enroll(token, node_key=new_node_key(), moretta_version="1", issue=fail)
    assert office.registry.sites() == []
    office.enroll(token)


@pytest.mark.parametrize("state", ["revoked", "left"])
def test_a_site_that_ended_is_known_no_more_by_any_certificate(office: Office, state: str) -> None:
    first = office.enroll(office.token())
    renewed = office.issue()
    office.registry.add_certificate("clinic-a", renewed, moretta_version="2")
    pending = office.token(reenroll=True)
    assert office.registry.end_site("clinic-a", state)
    assert not office.registry.end_site("clinic-a", state)
    for issued in (first, renewed):
        known = office.registry.certificate(issued.fingerprint)
        assert known is not None
        assert known.revoked
        assert known.node_key == ""
    assert office.registry.token(pending.fingerprint) is None
    with pytest.raises(Refusal) as refused:
        office.registry.add_certificate("clinic-a", office.issue(), moretta_version="2")
    assert _reason(refused) == ("UNAUTHENTICATED", "revoked")


def test_a_name_that_left_is_free_and_a_revoked_one_is_not(office: Office) -> None:
    office.enroll(office.token())
    office.registry.end_site("clinic-a", "left")
    office.enroll(office.token())
    office.registry.end_site("clinic-a", "revoked")
    with pytest.raises(EnrollmentError, match="the name clinic-a is revoked"):
        office.token()
    office.enroll(office.token(reenroll=True))


def test_a_site_that_renews_without_end_is_refused_and_old_certificates_are_forgotten(office: Office) -> None:
    first = office.enroll(office.token())
    issued = office.issue()
    for number in range(599):
        office.registry.add_certificate(
            "clinic-a", replace(issued, serial=f"{number:x}", fingerprint=f"{number:064x}"), moretta_version="1"
        )
    with pytest.raises(Refusal) as refused:
        office.registry.add_certificate("clinic-a", issued, moretta_version="1")
    assert _reason(refused) == ("RESOURCE_EXHAUSTED", "too-many-certificates")
    office.clock.now += 40 * 24 * 3600
    office.registry.add_certificate("clinic-a", issued, moretta_version="1")
    assert office.registry.certificate(first.fingerprint) is None


def test_no_site_no_revocation(office: Office) -> None:
    with pytest.raises(EnrollmentError, match="no site is called ghost"):
        office.registry.end_site("ghost", "revoked")


def test_a_revocation_is_reported_once(office: Office) -> None:
    issued = office.enroll(office.token())
    office.registry.end_site("clinic-a", "revoked")
    assert office.registry.note_revocation(issued.fingerprint)
    assert not office.registry.note_revocation(issued.fingerprint)


def test_calls_are_counted(office: Office) -> None:
    office.enroll(office.token())
    for at in (20, 10):
        office.registry.count_calls("clinic-a", calls=2, bytes_from=3, bytes_to=5, last_call=at)
    site = office.registry.sites()[0]
    assert (site.calls, site.bytes_from, site.bytes_to, site.last_call) == (4, 6, 10, 20)


def test_the_registry_keeps_no_secret(office: Office, tmp_path: Path) -> None:
    join = office.join()
    made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
    scalar = load_pem_private_key(made.key_pem, None).private_numbers().private_value.to_bytes(32, "big")
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("registry.sqlite*"))
    assert made.certificate_der in stored
    for secret in (join.secret, scalar, join.secret.hex().encode(), join.encode().split(".")[1].encode()):
        assert secret not in stored


def test_everything_is_there_after_a_restart_and_only_its_owner_reads_it(office: Office, tmp_path: Path) -> None:
    issued = office.enroll(office.token())
    before = office.state()
    for path in tmp_path.glob("registry.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Office(SiteRegistry.open(tmp_path / "registry.sqlite", office.clock), office.authority, office.clock)
    assert again.state() == before
    assert again.registry.certificate(issued.fingerprint) == office.registry.certificate(issued.fingerprint)
    again.registry.close()


def test_migrations_lead_to_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    database = SiteRegistry.create(tmp_path / "r.sqlite")
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == HEAD
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert {"sites", "node_keys", "certificates", "tokens"} <= set(inspect(connection).get_table_names())
    config = Config()
    config.set_main_option("script_location", "moretta.server.enrollment:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    database.close()


def test_an_empty_file_is_migrated_and_a_newer_or_damaged_one_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.touch()
    SiteRegistry.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(HomeError, match="another version of Moretta"):
        SiteRegistry.open(path)
    for leftover in tmp_path.glob("r.sqlite-*"):
        leftover.unlink()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(HomeError, match="cannot be opened"):
        SiteRegistry.open(path)
    path.unlink()
    with pytest.raises(HomeError, match="is missing"):
        SiteRegistry.open(path)


def test_a_registry_that_was_removed_or_swapped_under_its_server_is_a_problem(office: Office, tmp_path: Path) -> None:
    assert office.registry.problem() is None
    path = tmp_path / "registry.sqlite"
    path.rename(tmp_path / "away")
    assert "cannot be read" in str(office.registry.problem())
    (tmp_path / "copy").write_bytes((tmp_path / "away").read_bytes())
    (tmp_path / "copy").rename(path)
    assert "was replaced" in str(office.registry.problem())
