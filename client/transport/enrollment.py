"""Enrollment of a site at a server, renewal of its certificate, and leaving: keys never leave the site.

Nothing is written until the server's response was checked. The identity is written last and as one file, so that a kill
at any point leaves the old site or the new one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport.identity import Identity, key_pem, new_node_key, new_tls_key, openssh_private, pem_of
from moretta.client.transport.server_channel import bootstrap_channel, explained, look_at_authority, site_channel
from moretta.shared.core.atomic import locked, write_atomic
from moretta.shared.core.errors import EnrollmentError, HomeError, UnreachableError
from moretta.shared.core.reproducibility import versions
from moretta.shared.enrollment import JoinString, derive_bootstrap
from moretta.shared.messages.rpc import Stub, enrollment
from moretta.shared.pb import enrollment_pb2 as pb

CALL_SECONDS = 30.0
_REPORT_SECONDS = 120.0
_LOOK_SECONDS = 0.2
Reply = TypeVar("Reply")
_CLOCK_SKEW = dt.timedelta(minutes=5)


async def join(
    home: SiteHome,
    string: JoinString,
    said: SiteFile | None,
    *,
    replace: bool = False,
    clock: Callable[[], float] = time.time,
) -> Identity:
    """Enroll a site.

    Args:
        said: for `site.toml`; None keeps the present one.
        replace: join again in place of a present enrollment. Node and TLS key are new; ledger, pseudonyms and releases
            stay.

    Raises:
        HomeError: the folder cannot be used, or holds an enrolled site already.
        PolicyError: the policy that is there names another server.
        EnrollmentError, UnreachableError: the string has expired, either side refuses the other, or no response.
    """
    from moretta.client.policy import Policy, default_policy  # the rest of this module needs nothing as heavy

    if home.identity_file.exists() and not replace:
        fix = "choose another --home; or --replace, with a join string that the coordinator made with --reenroll"
        raise HomeError(f"{home.root} holds an enrolled site already", fix=fix)
    if said is None:
        home.read()
    parent = next(folder for folder in (home.root, *home.root.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise HomeError(f"{parent} cannot be written to", expected="a folder for the site", fix="choose another --home")
    if home.policy_file.exists():
        Policy.load(home.policy_file).check_pinned("server_fingerprint", string.ca_fingerprint)
    if clock() >= string.expires:
        raise EnrollmentError(
            f"a join string that expired {dt.datetime.fromtimestamp(string.expires, dt.UTC):%Y-%m-%d %H:%M} UTC",
            fix="ask the coordinator for a new one; if that time is still to come, this machine's clock is wrong",
        )
    ca_pem = look_at_authority(string.address, string.ca_fingerprint)
    tls_key, node_key = new_tls_key(), new_node_key()
    public = node_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    request = pb.EnrollRequest(
        site=string.site,
        csr_der=_csr(tls_key, string.site),
        node_public_key=public,
        moretta_version=versions()["moretta"],
    )
    bootstrap = derive_bootstrap(string.secret, token_id=string.token_id, expires=string.expires)
    async with bootstrap_channel(string.address, ca_pem, bootstrap) as channel:
        try:
            reply: pb.EnrollReply = await enrollment(channel).Enroll(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:  # it responded a moment ago: it does not take the token
                found = "the server does not take this join string: it was used, withdrawn, or has expired"
                fix = "ask the coordinator for a new one: moretta server token --site NAME"
                raise EnrollmentError(found, fix=fix) from error
            raise explained(error, string.address) from error
    identity = Identity(
        site=string.site,
        address=string.address,
        ca_pem=ca_pem,
        certificate_pem=_checked(reply.certificate_der, tls_key, string.site, ca_pem),
        tls_key_pem=key_pem(tls_key),
        node_key=openssh_private(node_key),
    )
    home.prepare()
    if not home.policy_file.exists():
        write_atomic(home.policy_file, default_policy(identity.ca_fingerprint), mode=0o600)
    if said is not None:
        home.write(said)
    identity.save(home.identity_file)
    return identity


async def renew(home: SiteHome, channel: grpc.aio.Channel | None = None) -> Identity:
    """Get a new certificate for a new TLS key under the present one. The node key stays.

    Args:
        channel: an open channel under the present certificate; None opens one.

    Raises:
        HomeError, EnrollmentError, UnreachableError: the site is not enrolled; the server refuses, or gives no
            certificate for this site; it does not respond, or another process renews for long.
    """
    async with _renewing(home):
        identity = Identity.load(home.identity_file)
        key = new_tls_key()
        request = pb.RenewRequest(csr_der=_csr(key, identity.site), moretta_version=versions()["moretta"])
        reply = await _call(identity, lambda stub: stub.Renew(request, timeout=CALL_SECONDS), channel)
        certificate = _checked(reply.certificate_der, key, identity.site, identity.ca_pem)
        renewed = identity.model_copy(update={"certificate_pem": certificate, "tls_key_pem": key_pem(key)})
        renewed.save(home.identity_file)
    return renewed


async def info(identity: Identity) -> pb.InfoReply:
    """Versions that the server runs. Raises as `renew` does."""
    return await _call(identity, lambda stub: stub.Info(pb.InfoRequest(), timeout=CALL_SECONDS))


async def status(identity: Identity) -> pb.StatusReply:
    """This site's status at the server. Raises as `renew` does."""
    return await _call(identity, lambda stub: stub.Status(pb.StatusRequest(), timeout=CALL_SECONDS))


async def findings(identity: Identity, study: str, channel: grpc.aio.Channel | None = None) -> bytes:
    """`report.json` of a study, by its digest, unchecked; empty while there is none for this site.

    Raises as `renew` does.
    """
    request = pb.FindingsRequest(study=study)
    reply = await _call(identity, lambda stub: stub.Findings(request, timeout=_REPORT_SECONDS), channel)
    return bytes(reply.report_json)


async def leave(home: SiteHome, *, offline: bool = False) -> None:
    """Give the enrollment up, at the server first. Ledger, pseudonyms, releases and policy stay. `offline`: delete the
    keys without the server, which goes on trusting them until they are revoked or expire."""
    identity = Identity.load(home.identity_file)
    if not offline:
        await _call(identity, lambda stub: stub.Leave(pb.LeaveRequest(), timeout=CALL_SECONDS))
    for path in (home.identity_file, *home.keys.glob("node*")):
        path.unlink(missing_ok=True)


async def _call(
    identity: Identity, request: Callable[[Stub], Awaitable[Reply]], channel: grpc.aio.Channel | None = None
) -> Reply:
    used = channel or site_channel(identity)
    try:
        return await request(enrollment(used))
    except grpc.aio.AioRpcError as error:
        raise explained(error, identity.address) from error
    finally:
        if channel is None:
            await used.close()


def _csr(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def _checked(der: bytes, key: ec.EllipticCurvePrivateKey, site: str, ca_pem: str) -> str:
    """A certificate from the server, PEM, if it is the requested one."""
    now, odd = dt.datetime.now(dt.UTC), ""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
        names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if certificate.public_key() != key.public_key():
            odd = "another key's"
        elif names != [site] or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            odd = f"one for {names}"
        elif not certificate.not_valid_before_utc - _CLOCK_SKEW <= now < certificate.not_valid_after_utc:
            odd = f"one that is not valid now, {now:%Y-%m-%d %H:%M} UTC: this clock or the server's is wrong"
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        odd = f"none of its authority ({type(error).__name__})"
    if odd:
        found = f"in the place of a certificate the server gave {odd}"
        raise EnrollmentError(found, fix="report it to the coordinator")
    return pem_of(der)


@asynccontextmanager
async def _renewing(home: SiteHome) -> AsyncIterator[None]:
    """One renewal at a time: of two, the slower would replace the newer certificate with the older."""
    with ExitStack() as lock:
        for _ in range(int(CALL_SECONDS / _LOOK_SECONDS) + 1):
            try:
                lock.enter_context(locked(home.keys / ".renewing", wait=False))
            except BlockingIOError:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            yield
            return
    raise UnreachableError("another process renews this site's certificate and does not finish", fix="try again later")
