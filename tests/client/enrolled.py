"""An enrolled site on disk, without a server: its certificate is from an authority made on the spot."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.client.offers import Offers
from moretta.client.policy import default_policy
from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport.identity import Identity, key_pem, new_node_key, new_tls_key, openssh_private
from moretta.shared.study.schema import Study

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


TRUSTED = 'without_guarantee = ["mfcc-quantizer", "autoencoder", "none"]\n'
"""Line of a policy that lets the anonymizers of these tests release, though none of them has a guarantee for a clip."""


def approve(home: SiteHome, study: Study, arrays: dict[str, Any]) -> str:
    """A study that was offered with these arrays, and that the steward has approved; its digest."""
    offers = Offers(home.root)
    offer = offers.keep(study.without_paths(), arrays)
    offers.decide(offer, "approved", "steward")
    return offer.digest


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    hours: float = 24.0,
    start: dt.datetime = NOW,
    server: bool = False,
) -> x509.Certificate:
    """A certificate; without an issuer, an authority of its own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - dt.timedelta(minutes=5))
        .not_valid_after(start + dt.timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if server:
        import ipaddress

        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())


def pem(made: x509.Certificate) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def enrolled(root: Path, corpus: Path, *, name: str = "clinic-a", policy: str | None = None, **said: Any) -> SiteHome:
    """Write a site's folder as `moretta site join` would leave it."""
    home = SiteHome(root)
    home.prepare()
    ca_key, tls_key = new_node_key(), new_tls_key()
    ca = certificate("moretta test", ca_key)
    identity = Identity(
        site=name,
        address="127.0.0.1:1",
        ca_pem=pem(ca),
        certificate_pem=pem(certificate(name, tls_key, issuer=(ca, ca_key))),
        tls_key_pem=key_pem(tls_key),
        node_key=openssh_private(new_node_key()),
    )
    identity.save(home.identity_file)
    home.write(SiteFile(corpus=corpus, **said))
    default = default_policy(identity.ca_fingerprint).replace("without_guarantee = []\n", TRUSTED)
    home.policy_file.write_text(default if policy is None else policy, "utf-8")
    return home
