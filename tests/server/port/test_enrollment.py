from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from offices import new_node_key
from ports import RunningPort, SiteKeys, refusal

from moretta.server.audit_log import verify_log
from moretta.shared.enrollment import new_secret
from moretta.shared.pb.enrollment_pb2 import StatusReply


@pytest.fixture
def port(tmp_path: Path) -> Iterator[RunningPort]:
    port = RunningPort(tmp_path, None)
    yield port
    port.close()


def test_a_join_string_enrolls_a_site_and_its_certificate_works(port: RunningPort) -> None:
    site = port.enrolled()
    status = port.as_site(site).status()
    assert (status.site, status.state, status.last_call) == ("clinic-a", StatusReply.STATE_ENROLLED, 0)
    assert status.not_after == int(port.clock.now) + 24 * 3600
    record = port.office.registry.sites()[0]
    assert (record.name, record.state, record.node_key) == ("clinic-a", "enrolled", site.node_public)


def test_info_has_what_the_server_runs_for_an_enrolled_site_and_a_joining_one(port: RunningPort) -> None:
    for calls in (port.with_token(port.office.join()), port.as_site(port.enrolled("other"))):
        info = calls.info()
        assert info.unix_time_ms == int(port.clock.now * 1000)
        assert (info.moretta_version, info.flwr_version, info.code_digest, info.bundle_digest) == ("1", "2", "c", "b")
        assert info.max_call_bytes == port.limits.max_call_bytes


def test_a_token_under_20_concurrent_uses_has_exactly_one_winner(port: RunningPort) -> None:
    join, barrier = port.office.join(), Barrier(20)
    calls = [port.with_token(join) for _ in range(20)]
    for call in calls:
        call.info()  # all twenty connections are open before the first one enrolls

    def use(number: int) -> str:
        barrier.wait()
        try:
            calls[number].enroll(SiteKeys.new("clinic-a"))
        except grpc.RpcError as error:
            return "/".join(refusal(error))
        return "enrolled"

    with ThreadPoolExecutor(20) as pool:
        outcomes = sorted(pool.map(use, range(20)))
    assert outcomes.count("enrolled") == 1
    # a later caller learns that the token is used, or is a stranger by then
    assert set(outcomes) <= {
        "enrolled",
        "PERMISSION_DENIED/token-used",
        "UNAUTHENTICATED/unknown-certificate",
        "RESOURCE_EXHAUSTED/too-many-calls",
    }
    assert len(port.office.registry.sites()) == 1


def _nothing_written(port: RunningPort) -> None:
    assert port.office.registry.sites() == []
    assert port.office.registry.node_keys() == []
    assert len(port.office.registry.outstanding_tokens()) == 1


def test_a_token_for_another_site_is_refused_and_nothing_is_written(port: RunningPort) -> None:
    calls = port.with_token(port.office.join("clinic-a"))
    with pytest.raises(grpc.RpcError) as error:
        calls.enroll(SiteKeys.new("clinic-b"))
    assert refusal(error.value) == ("PERMISSION_DENIED", "wrong-site")
    _nothing_written(port)
    calls.enroll(SiteKeys.new("clinic-a"))


def test_an_expired_token_is_refused_and_nothing_is_written(port: RunningPort) -> None:
    join = port.office.join(hours=1)
    open_before, site = port.with_token(join), SiteKeys.new("clinic-a")
    open_before.info()
    port.clock.now += 3601
    with pytest.raises(grpc.RpcError) as error:
        open_before.enroll(site)
    assert refusal(error.value) == ("UNAUTHENTICATED", "unknown-certificate")
    with pytest.raises(grpc.RpcError) as error:
        port.with_token(join).enroll(site)  # not even the handshake
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert port.office.registry.sites() == []


@pytest.mark.parametrize("change", ["secret", "token", "expiry"])
def test_a_tampered_token_does_not_get_through_the_handshake(port: RunningPort, change: str) -> None:
    join = port.office.join()
    forged = {
        "secret": replace(join, secret=new_secret()),
        "token": replace(join, token_id="0" * 16),
        "expiry": replace(join, expires=join.expires + 1),
    }[change]
    with pytest.raises(grpc.RpcError) as error:
        port.with_token(forged).enroll(SiteKeys.new("clinic-a"))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    _nothing_written(port)


def test_a_used_token_does_not_get_through_the_handshake(port: RunningPort) -> None:
    join = port.office.join()
    port.with_token(join).enroll(SiteKeys.new("clinic-a"))
    with pytest.raises(grpc.RpcError) as error:
        port.with_token(join).info()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_taken_name_with_a_new_key_needs_an_explicit_reenrollment(port: RunningPort) -> None:
    old = port.enrolled()
    new = SiteKeys.new("clinic-a")
    join = port.office.join(reenroll=True)
    new.certificate = port.with_token(join).enroll(new).certificate_der
    assert port.as_site(new).status().state == StatusReply.STATE_ENROLLED
    assert port.as_site(old).status().state == StatusReply.STATE_REVOKED


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, greedy: bool = False) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if greedy:
        names = x509.SubjectAlternativeName([x509.DNSName("moretta.example.org")])
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_what_a_certificate_request_adds_to_its_key_is_not_granted(port: RunningPort) -> None:
    site = SiteKeys.new("clinic-a")
    reply = port.with_token(port.office.join()).enroll(site, csr_der=_request(site.key, greedy=True))
    certificate = x509.load_der_x509_certificate(reply.certificate_der)
    assert certificate.subject.rfc4514_string() == "CN=clinic-a"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert reply.ca_der == port.office.authority.der


def _bad_requests() -> dict[str, bytes]:
    good = _request(ec.generate_private_key(ec.SECP256R1()))
    return {
        "empty": b"",
        "no request": b"\x30\x03\x02\x01\x01",
        "signature changed": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:-10],
        "rsa": _request(rsa.generate_private_key(65_537, 2048)),
        "other curve": _request(ec.generate_private_key(ec.SECP384R1())),
        "long": good + bytes(5000),
    }


@pytest.mark.parametrize("name", _bad_requests())
def test_a_bad_certificate_request_is_refused_and_the_token_stays_good(port: RunningPort, name: str) -> None:
    calls, site = port.with_token(port.office.join()), SiteKeys.new("clinic-a")
    with pytest.raises(grpc.RpcError) as error:
        calls.enroll(site, csr_der=_bad_requests()[name])
    assert refusal(error.value) == ("INVALID_ARGUMENT", "bad-request")
    _nothing_written(port)
    calls.enroll(site)


@pytest.mark.parametrize(
    "node_key",
    ["", "ssh-rsa AAAA", "x" * 600, "é", "ecdsa-sha2-nistp384 AAAA", new_node_key().replace("384", "256", 1)],
)
def test_a_bad_node_key_is_refused_and_the_token_stays_good(port: RunningPort, node_key: str) -> None:
    calls, site = port.with_token(port.office.join()), SiteKeys.new("clinic-a")
    with pytest.raises(grpc.RpcError) as error:
        calls.enroll(site, node_public_key=node_key)
    assert refusal(error.value) == ("INVALID_ARGUMENT", "bad-node-key")
    _nothing_written(port)
    calls.enroll(site)


def test_the_node_key_of_another_site_cannot_be_taken(port: RunningPort) -> None:
    other = port.enrolled("clinic-b")
    calls = port.with_token(port.office.join("clinic-a"))
    with pytest.raises(grpc.RpcError) as error:
        calls.enroll(SiteKeys.new("clinic-a"), node_public_key=other.node_public + " comment")
    assert refusal(error.value) == ("PERMISSION_DENIED", "foreign-node-key")


def test_a_join_string_is_for_enroll_and_info_alone(port: RunningPort) -> None:
    site = SiteKeys.new("clinic-a")
    calls = port.with_token(port.office.join())
    for call in (calls.status, calls.leave, lambda: calls.renew(site, site.key)):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert refusal(error.value) == ("UNAUTHENTICATED", "not-enrolled")
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(port.enrolled("clinic-b")).enroll(site)
    assert refusal(error.value) == ("PERMISSION_DENIED", "enrolled-already")


def test_renewal_gives_a_new_certificate_for_a_new_key_and_the_old_one_stays_good(port: RunningPort) -> None:
    port.clock.now -= 20 * 3600  # TLS goes by the real clock, and must find every certificate good
    site, key = port.enrolled(), ec.generate_private_key(ec.SECP256R1())
    port.clock.now += 16 * 3600
    old = port.as_site(site)
    renewed = SiteKeys("clinic-a", key, site.node_key, old.renew(site, key).certificate_der)
    assert port.as_site(renewed).status().not_after == int(port.clock.now) + 24 * 3600
    assert old.status().state == StatusReply.STATE_ENROLLED
    port.clock.now += 8 * 3600 + 1
    with pytest.raises(grpc.RpcError) as error:
        old.status()
    assert refusal(error.value) == ("UNAUTHENTICATED", "expired")
    assert port.as_site(renewed).status().state == StatusReply.STATE_ENROLLED


def test_revocation_holds_from_the_next_call_on_an_open_connection(port: RunningPort) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    calls.status()
    port.office.registry.end_site("clinic-a", "revoked")
    with pytest.raises(grpc.RpcError) as error:
        calls.info()
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    assert calls.status().state == StatusReply.STATE_REVOKED
    with pytest.raises(grpc.RpcError) as error:
        calls.status()
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    with pytest.raises(grpc.RpcError) as error:
        calls.renew(site, site.key)
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")


def test_a_site_that_leaves_is_out_and_its_name_is_free(port: RunningPort) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    calls.leave()
    with pytest.raises(grpc.RpcError) as error:
        calls.info()
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    port.enrolled()


def test_a_certificate_that_the_registry_does_not_know_is_refused_though_the_authority_signed_it(
    port: RunningPort,
) -> None:
    port.enrolled("clinic-a")
    forger = SiteKeys.new("clinic-a")
    forger.certificate = port.office.issue("clinic-a", forger.key.public_key()).der
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(forger).info()
    assert refusal(error.value) == ("UNAUTHENTICATED", "unknown-certificate")


def test_what_happened_stands_in_the_audit_log_and_no_secret_does(port: RunningPort, tmp_path: Path) -> None:
    join = port.office.join()
    calls, site = port.with_token(join), SiteKeys.new("clinic-a")
    calls.enroll(site)
    with pytest.raises(grpc.RpcError):
        calls.enroll(site)
    text = (tmp_path / "audit.jsonl").read_text()
    assert '"event":"enrolled"' in text
    assert f'"token":"{join.token_id}"' in text
    assert '"reason":"unknown-certificate"' in text
    for secret in (join.secret.hex(), join.encode().split(".")[1]):
        assert secret not in text
    verify_log(tmp_path / "audit.jsonl")
