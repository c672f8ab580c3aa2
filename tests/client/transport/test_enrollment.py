"""A site joins, renews and leaves a server with real sockets and certificates."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from enrolled import certificate, pem
from mini_server import der, mini_server, run

from moretta.client.policy import PolicyError
from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity, key_pem, new_node_key, new_tls_key
from moretta.shared.core.errors import EnrollmentError, HomeError, MorettaError, UnreachableError

SAID = SiteFile(corpus=Path("/corpus"))


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome(tmp_path / "site")


def files(home: SiteHome) -> set[str]:
    return {p.relative_to(home.root).as_posix() for p in home.root.rglob("*") if p.is_file()}


def test_a_site_joins_and_its_keys_are_its_own_and_closed_to_others(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            identity = await enrollment.join(home, server.string(), SAID)
            assert Identity.load(home.identity_file) == identity
            assert identity.site == "clinic-a"
            assert identity.ca_fingerprint == server.ca_fingerprint
            (request,) = server.seen
            for secret in (identity.tls_key_pem, identity.node_key):
                assert secret.encode() not in request.SerializeToString()
            assert request.node_public_key.startswith("ecdsa-sha2-nistp384 ")

    run(scene())
    assert files(home) == {"keys/identity.json", "site.toml", "policy.toml"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.root.rglob("*"))
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_keys_do_not_show_in_any_text_about_an_identity(home: SiteHome) -> None:
    async def scene() -> Identity:
        async with mini_server() as server:
            return await enrollment.join(home, server.string(), SAID)

    identity = run(scene())
    for text in (repr(identity), str(identity)):
        assert "PRIVATE" not in text


async def _wrong_authority(server: Any) -> Any:
    return server.string(ca_fingerprint="ab" * 32)


async def _expired(server: Any) -> Any:
    return server.string(expires=1_710_000_000)


async def _unknown_secret(server: Any) -> Any:
    return replace(server.string(), secret=bytes(32))


async def _gone(server: Any) -> Any:
    string = server.string()
    await server.stop()
    return string


async def _refused(server: Any) -> Any:
    server.refuse = (grpc.StatusCode.ALREADY_EXISTS, "name-taken: the name is taken by another key")
    return server.string()


async def _revoked_token(server: Any) -> Any:
    server.refuse = (grpc.StatusCode.PERMISSION_DENIED, "used: this token was used before")
    return server.string()


async def _other_key(server: Any) -> Any:
    server.issue = lambda csr: der(server.certificate("clinic-a", new_tls_key().public_key()))
    return server.string()


async def _other_name(server: Any) -> Any:
    server.issue = lambda csr: der(server.certificate("clinic-b", x509.load_der_x509_csr(csr).public_key()))
    return server.string()


async def _other_issuer(server: Any) -> Any:
    key = new_node_key()

    def issue(csr: bytes) -> bytes:
        public: Any = x509.load_der_x509_csr(csr)
        return der(certificate("clinic-a", public, issuer=(certificate("evil", key), key)))

    server.issue = issue
    return server.string()


async def _nonsense(server: Any) -> Any:
    server.issue = lambda csr: b"no certificate"
    return server.string()


@pytest.mark.parametrize(
    ("spoil", "error", "reported"),
    [
        (_wrong_authority, EnrollmentError, "none with the fingerprint of the join string"),
        (_expired, EnrollmentError, "expired 2024-03-09"),
        (_unknown_secret, EnrollmentError, "does not take this join string"),
        (_gone, UnreachableError, "does not respond"),
        (_refused, EnrollmentError, "the name is taken"),
        (_revoked_token, EnrollmentError, "used before"),
        (_other_key, EnrollmentError, "another key's"),
        (_other_name, EnrollmentError, "one for"),
        (_other_issuer, EnrollmentError, "none of its authority"),
        (_nonsense, EnrollmentError, "none of its authority"),
    ],
)
def test_a_refusal_says_why_and_leaves_nothing_written(
    home: SiteHome, spoil: Any, error: type[MorettaError], reported: str
) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            string = await spoil(server)
            with pytest.raises(error, match=reported):
                await enrollment.join(home, string, SAID)

    run(scene())
    assert not home.root.exists()


def test_whoever_is_not_the_server_receives_nothing_but_a_handshake(home: SiteHome, tmp_path: Path) -> None:
    """A stranger at the server's address, who even speaks TLS 1.3: no certificate, request or byte more is sent."""
    key = new_tls_key()
    (tmp_path / "pair.pem").write_text(pem(certificate("evil", key)) + key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(tmp_path / "pair.pem")
    context.load_verify_locations(tmp_path / "pair.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    got: list[tuple[bytes, Any]] = []

    def serve() -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as secured:
            shown = secured.getpeercert(binary_form=True)
            got.append((secured.recv(1000), shown))

    thread = threading.Thread(target=serve)
    thread.start()

    async def scene() -> None:
        async with mini_server() as server:
            string = server.string(address=f"127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(EnrollmentError, match="nothing was sent"):
                await enrollment.join(home, string, SAID)
            assert not server.seen

    run(scene())
    thread.join()
    listener.close()
    assert got == [(b"", None)]
    assert not home.root.exists()


def test_a_listener_that_speaks_no_tls_is_distinguished_from_nobody(home: SiteHome) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        plain.recv(1000)
        plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        plain.close()

    threading.Thread(target=serve).start()

    async def scene() -> None:
        async with mini_server() as server:
            with pytest.raises(EnrollmentError, match="does not speak TLS"):
                await enrollment.join(home, server.string(address=f"127.0.0.1:{listener.getsockname()[1]}"), SAID)

    run(scene())
    listener.close()


def test_an_enrolled_site_is_not_joined_over_without_replace(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            first = await enrollment.join(home, server.string(), SAID)
            (home.root / "ledger.jsonl").write_text("spent\n")
            with pytest.raises(HomeError, match="holds an enrolled site already"):
                await enrollment.join(home, server.string(), SAID)
            assert Identity.load(home.identity_file) == first
            second = await enrollment.join(home, server.string(), None, replace=True)
            assert second.node_key != first.node_key  # a node key that was taken back can never be registered again
            assert home.read().corpus == Path("/corpus")
            assert (home.root / "ledger.jsonl").read_text() == "spent\n"

    run(scene())


def test_a_policy_that_is_there_is_kept_and_shuts_out_another_server(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            home.root.mkdir()
            home.policy_file.write_text(f'server_fingerprint = "{"ab" * 32}"\n')
            with pytest.raises(PolicyError, match="server_fingerprint"):
                await enrollment.join(home, server.string(), SAID)
            assert not server.seen
            home.policy_file.write_text(f'server_fingerprint = "{server.ca_fingerprint}"\n')
            await enrollment.join(home, server.string(), SAID)
            assert home.policy_file.read_text() == f'server_fingerprint = "{server.ca_fingerprint}"\n'

    run(scene())


def test_a_renewal_has_a_new_tls_key_and_the_old_node_key(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            after = await enrollment.renew(home)
            assert Identity.load(home.identity_file) == after
            assert after.tls_key_pem != before.tls_key_pem
            assert after.node_key == before.node_key
            assert server.serials[-1] == before.certificate.serial_number

    run(scene())


def test_two_renewals_at_once_come_one_after_the_other(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            first = await enrollment.join(home, server.string(), SAID)
            one, two = await asyncio.gather(enrollment.renew(home), enrollment.renew(home))
            assert Identity.load(home.identity_file) in (one, two)
            shown = server.serials[-2:]
            assert shown[0] == first.certificate.serial_number
            assert shown[1] in {one.certificate.serial_number, two.certificate.serial_number}

    run(scene())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, EnrollmentError),
        (grpc.StatusCode.PERMISSION_DENIED, EnrollmentError),
        (grpc.StatusCode.UNAVAILABLE, UnreachableError),
        (grpc.StatusCode.INTERNAL, UnreachableError),
    ],
)
def test_a_renewal_that_fails_leaves_the_site_as_it_was(
    home: SiteHome, code: grpc.StatusCode, error: type[MorettaError]
) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            server.refuse = (code, "because")
            with pytest.raises(error, match="because"):
                await enrollment.renew(home)
            assert Identity.load(home.identity_file) == before

    run(scene())


def test_a_site_that_leaves_forgets_its_keys_and_keeps_its_ledger(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            await enrollment.join(home, server.string(), SAID)
            (home.root / "ledger.jsonl").write_text("spent\n")
            assert (await enrollment.status(Identity.load(home.identity_file))).site == "clinic-a"
            server.refuse = (grpc.StatusCode.UNAVAILABLE, "busy")
            with pytest.raises(UnreachableError):
                await enrollment.leave(home)
            assert home.identity_file.exists()
            server.refuse = None
            await enrollment.leave(home)

    run(scene())
    assert files(home) == {"ledger.jsonl", "policy.toml", "site.toml"}
    with pytest.raises(HomeError, match="no enrolled site"):
        Identity.load(home.identity_file)


KILLED = """
import os, signal, sys
from pathlib import Path
from moretta.client.transport.identity import Identity
from moretta.client.site_home import SiteHome

home = SiteHome(Path(sys.argv[1]))
old, new = Identity.load(home.identity_file), Identity.model_validate_json(sys.stdin.read())
real = {name: getattr(os, name) for name in ("open", "fchmod", "fsync", "replace", "close")}


def die_at(step):
    left = [step]

    def counted(name):
        def call(*a, **k):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*a, **k)

        return call

    for name in real:
        setattr(os, name, counted(name))


for step in range(1, 40):
    old.save(home.identity_file)
    child = os.fork()
    if not child:
        die_at(step)
        new.save(home.identity_file)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = Identity.load(home.identity_file)
    print("new" if found == new else "old" if found == old else "neither", os.waitstatus_to_exitcode(status))
    if status == 0:
        break
"""


def test_a_kill_at_any_point_of_a_renewal_leaves_the_old_identity_or_the_new(home: SiteHome) -> None:
    async def scene() -> Identity:
        async with mini_server() as server:
            await enrollment.join(home, server.string(), SAID)
            return server.identity()

    new: Identity = run(scene())
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(home.root)],
        input=new.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    steps = done.stdout.splitlines()
    assert len(steps) > 5
    assert steps[-1] == "new 0"
    assert set(steps[:-1]) == {f"old {-signal.SIGKILL}", f"new {-signal.SIGKILL}"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-10],
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: json.dumps({**json.loads(text), "tls_key_pem": "x"}),
        lambda text: json.dumps({**json.loads(text), "node_key": "x"}),
        lambda text: text.replace("BEGIN PRIVATE", "BEGIN"),
    ],
)
def test_a_damaged_identity_is_named_without_showing_a_key(home: SiteHome, spoil: Any) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            await enrollment.join(home, server.string(), SAID)

    run(scene())
    home.identity_file.write_text(spoil(home.identity_file.read_text()))
    with pytest.raises(HomeError) as damaged:
        Identity.load(home.identity_file)
    assert "PRIVATE" not in str(damaged.value)
    assert "--reenroll" in str(damaged.value)


def test_a_key_that_is_not_the_certificate_s_is_noticed(home: SiteHome) -> None:
    async def scene() -> None:
        async with mini_server() as server:
            one, two = server.identity(), server.identity()
            home.prepare()
            one.model_copy(update={"tls_key_pem": two.tls_key_pem}).save(home.identity_file)

    run(scene())
    with pytest.raises(HomeError, match="not that of its certificate"):
        Identity.load(home.identity_file)


def test_two_processes_do_not_share_one_home(home: SiteHome) -> None:
    home.prepare()
    with home.locked(), pytest.raises(HomeError, match="in use by another process"), home.locked():
        pass
    with home.locked():
        pass


def test_joining_takes_seconds_at_most(home: SiteHome) -> None:
    async def scene() -> float:
        async with mini_server() as server:
            string = server.string()
            start = time.monotonic()
            await enrollment.join(home, string, SAID)
            return time.monotonic() - start

    assert run(scene()) < 5
