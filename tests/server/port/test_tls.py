from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ports import Calls, RunningPort, SiteKeys, key_pem, refusal, to_pem

from moretta.server.port.guard import identify
from moretta.server.port.listen import ENROLLMENT, RELAY
from moretta.server.port.refusals import Refusal
from moretta.shared.enrollment import fingerprint


@pytest.fixture
def port(tmp_path: Path) -> Iterator[RunningPort]:
    port = RunningPort(tmp_path, None)
    yield port
    port.close()


def _dial(port: RunningPort, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port.port), timeout=10))


def _blind() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def test_the_port_shows_its_chain_with_the_authority_so_that_a_joining_site_can_compare_it(port: RunningPort) -> None:
    with _dial(port, _blind()) as connection:
        chain = connection._sslobj.get_unverified_chain()
        assert connection.version() == "TLSv1.3"
        own, authority = (ssl.PEM_cert_to_DER_cert(c.public_bytes()) for c in chain)
    assert fingerprint(authority) == port.office.authority.fingerprint
    x509.load_der_x509_certificate(own).verify_directly_issued_by(port.office.authority.certificate)


def _speaks(port: RunningPort, context: ssl.SSLContext) -> bool:
    """Whether HTTP/2 is spoken after the handshake: with TLS 1.3 a client sees only then whether it was let in."""
    try:
        with _dial(port, context) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            return bool(connection.recv(9))
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_call_over_tls_1_2_would_be_refused(port: RunningPort) -> None:
    """Refused handshakes are a test of the real process: gRPC must be set up for them before it is loaded."""
    presented = {"x509_pem_cert": [to_pem(port.enrolled().certificate)]}
    assert identify({**presented, "ssl_tls_version": [b"TLSv1.3"]}, port.office.registry, port.clock)
    for versions in ({"ssl_tls_version": [b"TLSv1.2"]}, {}):
        with pytest.raises(Refusal) as refused:
            identify({**presented, **versions}, port.office.registry, port.clock)
        assert (refused.value.kind, refused.value.reason) == ("UNAUTHENTICATED", "old-tls")


def test_nobody_gets_past_the_handshake_without_a_certificate_that_leads_to_the_authority(
    port: RunningPort, tmp_path: Path
) -> None:
    assert not _speaks(port, _blind())
    stranger = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clinic-a")])
    own = x509.CertificateBuilder().subject_name(name).issuer_name(port.office.authority.certificate.subject)
    own = own.public_key(stranger.public_key()).serial_number(7)
    now = port.office.authority.certificate.not_valid_before_utc
    own = own.not_valid_before(now).not_valid_after(port.office.authority.certificate.not_valid_after_utc)
    (tmp_path / "own.key").write_bytes(key_pem(stranger))
    certificate = own.sign(stranger, hashes.SHA256())
    (tmp_path / "own.pem").write_bytes(to_pem(certificate.public_bytes(Encoding.DER)))
    context = _blind()
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    assert not _speaks(port, context)
    site = port.enrolled()
    (tmp_path / "site.key").write_bytes(key_pem(site.key))
    (tmp_path / "site.pem").write_bytes(to_pem(site.certificate))
    context = _blind()
    context.load_cert_chain(tmp_path / "site.pem", tmp_path / "site.key")
    assert _speaks(port, context)


def test_a_sites_certificate_cannot_issue_one_for_another_site(port: RunningPort) -> None:
    site, other = port.enrolled(), SiteKeys.new("clinic-b")
    issuer = x509.load_der_x509_certificate(site.certificate)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clinic-b")]))
        .issuer_name(issuer.subject)
        .public_key(other.key.public_key())
        .serial_number(9)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .sign(site.key, hashes.SHA256())
    )
    chain = to_pem(forged.public_bytes(Encoding.DER)) + to_pem(site.certificate)
    with pytest.raises(grpc.RpcError) as error:
        Calls(port.channel(key_pem(other.key), chain)).info()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_ports_certificate_is_renewed_while_it_runs_and_open_connections_go_on(port: RunningPort) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    calls.status()
    before = port.certificates.issued.serial
    assert not port.certificates.renew_if_due()
    port.clock.now += 16 * 3600 + 60
    assert port.certificates.renew_if_due()
    port.certificates._clock = time.time  # type: ignore[assignment]  # a certificate for the real clock of TLS
    port.office.authority._clock = time.time
    port.certificates.renew()
    assert port.certificates.issued.serial != before
    calls.info()
    with _dial(port, _blind()) as connection:
        shown = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    assert f"{shown.serial_number:x}" == port.certificates.issued.serial


def test_the_handshake_of_a_client_that_pins_another_authority_fails(port: RunningPort, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = RunningPort(other, None)
    site = port.enrolled()
    credentials = grpc.ssl_channel_credentials(
        stranger.office.authority.pem, key_pem(site.key), to_pem(site.certificate)
    )
    with grpc.secure_channel(f"127.0.0.1:{port.port}", credentials) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    stranger.close()


def test_health_reports_each_part_to_enrolled_sites_only(port: RunningPort) -> None:
    site = port.enrolled()
    stub = health_pb2_grpc.HealthStub(port.as_site(site).channel)

    def status(service: str) -> str:
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    assert [status(s) for s in ("", ENROLLMENT, RELAY)] == ["SERVING"] * 3
    port.problems["superlink"] = "down"
    assert [status(s) for s in ("", ENROLLMENT, RELAY)] == ["NOT_SERVING", "SERVING", "NOT_SERVING"]
    port.problems |= {"superlink": None, "authority": "gone"}
    assert [status(s) for s in ("", ENROLLMENT, RELAY)] == ["NOT_SERVING", "NOT_SERVING", "SERVING"]
    port.problems |= {"authority": None, "registry": "gone"}
    assert [status(s) for s in ("", ENROLLMENT, RELAY)] == ["NOT_SERVING"] * 3
    with pytest.raises(grpc.RpcError) as error:
        status("unknown")
    assert refusal(error.value)[0] == "NOT_FOUND"
    joining = health_pb2_grpc.HealthStub(port.with_token(port.office.join("other")).channel)
    with pytest.raises(grpc.RpcError) as error:
        joining.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert refusal(error.value) == ("UNAUTHENTICATED", "not-enrolled")
