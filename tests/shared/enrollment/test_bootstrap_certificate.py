from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.enrollment import Bootstrap, derive_bootstrap

EXPIRES = 4_000_000_000
_secrets = st.binary(min_size=32, max_size=32)


def _derive(secret: bytes = bytes(range(32)), token_id: str = "0" * 16, expires: int = EXPIRES) -> Bootstrap:
    return derive_bootstrap(secret, token_id=token_id, expires=expires)


@settings(deadline=None, max_examples=25)
@given(_secrets)
def test_both_sides_derive_the_same_certificate_and_key(secret: bytes) -> None:
    here, there = _derive(secret), _derive(secret)
    assert here.certificate_der == there.certificate_der
    assert here.key_pem == there.key_pem


@settings(deadline=None, max_examples=25)
@given(_secrets, st.integers(0, 255))
def test_one_other_bit_of_the_secret_gives_another_key(secret: bytes, bit: int) -> None:
    other = bytearray(secret)
    other[bit // 8] ^= 1 << bit % 8
    assert _derive(secret).key_pem != _derive(bytes(other)).key_pem


def test_tokens_with_one_secret_have_different_keys_and_another_end_another_certificate() -> None:
    assert _derive(token_id="0" * 16).key_pem != _derive(token_id="1" * 16).key_pem
    assert _derive(expires=EXPIRES + 1).certificate_der != _derive().certificate_der


def test_the_derivation_is_the_one_that_was_deployed() -> None:
    """A change here would shut out every site whose join string was made by an older version."""
    assert hashlib.sha256(_derive().certificate_der).hexdigest() == (
        "ea62b5c254d4f988b802ca3e2e9645fa9c3730912c3b936474f2dafccf089606"
    )


def test_the_certificate_can_issue_nothing_and_serve_nothing() -> None:
    certificate = x509.load_der_x509_certificate(_derive().certificate_der)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert usage.critical
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert int(certificate.not_valid_after_utc.timestamp()) == EXPIRES


def test_no_text_about_it_shows_the_key() -> None:
    made = _derive()
    assert "key" not in repr(made)
    assert repr(made.key_pem) not in repr(made)


@pytest.mark.parametrize("right", [True, False])
def test_only_who_knows_the_secret_gets_through_a_handshake(tmp_path: Path, right: bool) -> None:
    made = _derive()
    shown = made if right else _derive(bytes(32))
    (tmp_path / "trusted.pem").write_bytes(made.certificate_pem)
    for name, content in (("cert.pem", shown.certificate_pem), ("key.pem", shown.key_pem)):
        (tmp_path / name).write_bytes(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(tmp_path / "trusted.pem")
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert _handshake(server, client) is right


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    one, two = socket.socketpair()
    taken: list[bool] = []

    def serve() -> None:
        try:
            server.wrap_socket(one, server_side=True).close()
            taken.append(True)
        except ssl.SSLError:
            taken.append(False)
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(two).close()
    except (ssl.SSLError, OSError):
        two.close()
    thread.join()
    return taken == [True]
