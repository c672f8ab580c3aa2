from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from offices import Clock

from moretta.server.enrollment.authority import CertificateAuthority, create_authority, is_encrypted, load_authority
from moretta.shared.core.errors import HomeError


def _key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def test_the_authority_is_a_p384_key_that_issues_nothing_below_its_own(authority: CertificateAuthority) -> None:
    certificate = authority.certificate
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    certificate.verify_directly_issued_by(certificate)


def test_a_sites_certificate_says_what_the_server_says_and_no_more(
    authority: CertificateAuthority, clock: Clock
) -> None:
    public = _key()
    issued = authority.issue_site("clinic-a", public, hours=24)
    certificate = x509.load_der_x509_certificate(issued.der)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.subject.rfc4514_string() == "CN=clinic-a"
    assert certificate.public_key() == public
    extensions = {type(e.value): e for e in certificate.extensions}
    assert extensions.keys() == {
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.AuthorityKeyIdentifier,
    }
    assert extensions[x509.BasicConstraints].critical
    assert not extensions[x509.BasicConstraints].value.ca
    assert list(extensions[x509.ExtendedKeyUsage].value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = extensions[x509.KeyUsage].value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert (certificate.not_valid_before_utc.timestamp(), issued.not_after) == (clock.now - 300, clock.now + 24 * 3600)
    assert issued.serial == f"{certificate.serial_number:x}"


def test_the_servers_certificate_is_for_its_names_and_comes_with_the_authoritys(
    authority: CertificateAuthority,
) -> None:
    _, chain, _ = authority.issue_server(("moretta.example.org", "192.0.2.7", "::1"), hours=1)
    own, issuer = x509.load_pem_x509_certificates(chain)
    assert issuer == authority.certificate
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["moretta.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "::1"]
    assert list(own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_no_certificate_outlives_the_authority(authority: CertificateAuthority, clock: Clock) -> None:
    clock.now = authority.not_after - 60
    assert authority.issue_site("a", _key(), hours=24).not_after == authority.not_after


def test_serials_differ(authority: CertificateAuthority) -> None:
    assert len({authority.issue_site("a", _key(), hours=1).serial for _ in range(20)}) == 20


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_the_authority_is_the_same_after_a_restart(tmp_path: Path, clock: Clock, passphrase: bytes | None) -> None:
    made = create_authority(tmp_path / "ca", passphrase=passphrase, clock=clock)
    again = load_authority(tmp_path / "ca", passphrase=passphrase, clock=clock)
    assert again.fingerprint == made.fingerprint
    issued = x509.load_der_x509_certificate(again.issue_site("a", _key(), hours=1).der)
    issued.verify_directly_issued_by(made.certificate)
    for name in ("ca.key", "ca.pem"):
        assert stat.S_IMODE((tmp_path / "ca" / name).stat().st_mode) == 0o600
    assert is_encrypted(tmp_path / "ca") is (passphrase is not None)


def test_an_encrypted_key_opens_with_its_passphrase_only(tmp_path: Path, clock: Clock) -> None:
    create_authority(tmp_path, passphrase=b"correct horse", clock=clock)
    assert b"correct horse" not in (tmp_path / "ca.key").read_bytes()
    with pytest.raises(HomeError, match="is encrypted"):
        load_authority(tmp_path, passphrase=None, clock=clock)
    with pytest.raises(HomeError, match="does not open"):
        load_authority(tmp_path, passphrase=b"correct horsf", clock=clock)


def test_an_authority_is_never_overwritten(tmp_path: Path, clock: Clock) -> None:
    made = create_authority(tmp_path, passphrase=None, clock=clock)
    with pytest.raises(HomeError, match="has a certificate authority already"):
        create_authority(tmp_path, passphrase=None, clock=clock)
    assert load_authority(tmp_path, passphrase=None, clock=clock).fingerprint == made.fingerprint


def test_a_key_that_others_can_read_or_of_another_authority_is_refused(tmp_path: Path, clock: Clock) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        create_authority(folder, passphrase=None, clock=clock)
    (one / "ca.pem").write_bytes((two / "ca.pem").read_bytes())
    with pytest.raises(HomeError, match="do not belong together"):
        load_authority(one, passphrase=None, clock=clock)
    (two / "ca.key").chmod(0o640)
    with pytest.raises(HomeError, match="others can read"):
        load_authority(two, passphrase=None, clock=clock)
    (two / "ca.key").unlink()
    with pytest.raises(HomeError, match="cannot be read"):
        load_authority(two, passphrase=None, clock=clock)


def test_no_text_about_the_authority_shows_its_key(authority: CertificateAuthority) -> None:
    assert repr(authority) == f"CertificateAuthority({authority.fingerprint})"
