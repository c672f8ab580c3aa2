"""Who is calling: looked up anew for every call, so that a revocation holds from the next call on."""

from __future__ import annotations

import binascii
import ssl
from collections.abc import Iterable, Mapping

from sqlalchemy.exc import DatabaseError

from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.records import KnownCertificate, KnownToken
from moretta.server.enrollment.site_registry import Registry
from moretta.server.refusal import Refusal
from moretta.shared.enrollment.identifiers import fingerprint

Caller = KnownCertificate | KnownToken
"""A site, or somebody with a join string."""
GUEST_PREFIX = "token:"
"""Begins the name of who has only a join string. No site's name has a colon."""


def identify(auth: Mapping[str, Iterable[bytes]], registry: Registry, clock: Clock) -> Caller:
    """The caller behind a connection, by the certificate it presented in the handshake.

    That the chain holds is TLS' work. Here the certificate must be one that the registry itself has written down, so
    that not even a certificate that somebody got the authority to sign elsewhere is let in.

    Args:
        auth: gRPC's view of the connection.
        registry: asked at each call.
        clock: seconds since 1970.

    Raises:
        Refusal: the connection is not TLS 1.3, or the certificate unknown, or expired; a revoked one is returned, as
            it may be told so.
    """
    if b"TLSv1.3" not in auth.get("ssl_tls_version", ()):
        raise Refusal("UNAUTHENTICATED", "old-tls", "only TLS 1.3 is spoken here")
    print_of = fingerprint(_presented(auth))
    try:
        caller: Caller | None = registry.certificate(print_of) or registry.token(print_of)
    except DatabaseError as error:
        raise Refusal("UNAVAILABLE", "registry-down", "the server cannot look you up at the moment") from error
    if caller is None:
        raise Refusal("UNAUTHENTICATED", "unknown-certificate", "this server knows no such certificate")
    if isinstance(caller, KnownCertificate) and caller.not_after <= clock():
        raise Refusal("UNAUTHENTICATED", "expired", "this certificate has expired: ask the coordinator to re-enroll")
    return caller


def name_of(caller: Caller) -> str:
    """How the audit log calls a caller."""
    return caller.site if isinstance(caller, KnownCertificate) else f"{GUEST_PREFIX}{caller.token_id}"


def _presented(auth: Mapping[str, Iterable[bytes]]) -> bytes:
    try:
        (pem,) = auth.get("x509_pem_cert", ())
        return ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
    except (ValueError, UnicodeDecodeError, binascii.Error) as error:
        raise Refusal("UNAUTHENTICATED", "no-certificate", "a client certificate is needed here") from error
