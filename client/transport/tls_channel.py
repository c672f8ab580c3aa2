"""How a site reaches its server: a silent first look at its authority, then mutual TLS pinned to it."""

from __future__ import annotations

import socket
import ssl

import grpc
import grpc.aio

from moretta.client.transport.identity import Identity, pem_of
from moretta.shared.core.errors import EnrollmentError, MorettaError, UnreachableError
from moretta.shared.enrollment.bootstrap_certificate import Bootstrap
from moretta.shared.enrollment.identifiers import has_fingerprint, split_address

MAX_MESSAGE_BYTES = 256 * 2**20
_LOOK_SECONDS = 10.0
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Two channels to one server would otherwise share one connection, and a new certificate would not be shown.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a Fleet call is signed for once; who repeats it must sign it again
)
WAY_BACK = "ask the coordinator for `moretta server token --site NAME --reenroll`, and join again with --replace"


def look_at_authority(address: str, expected_fingerprint: str) -> str:
    """The server's certificate authority, PEM, if it has the fingerprint that the coordinator told.

    The handshake sends nothing but its own first message, and no certificate: the server is not trusted yet.

    Raises:
        UnreachableError: nobody answers there.
        EnrollmentError: whoever answers there is not the server, or shows no authority.
    """
    chain = _shown_chain(address)
    for der in chain:
        if has_fingerprint(der, expected_fingerprint):
            return pem_of(der)
    raise EnrollmentError(
        f"whoever answers at {address} shows {len(chain)} certificates, none with the fingerprint of the join string",
        expected=f"the authority {expected_fingerprint}",
        fix="check the address with the coordinator; nothing was sent",
    )


def bootstrap_channel(address: str, ca_pem: str, bootstrap: Bootstrap) -> grpc.aio.Channel:
    """A channel that proves to know the secret of a join string, to this authority's server alone."""
    return _channel(address, ca_pem.encode(), bootstrap.key_pem, bootstrap.certificate_pem)


def site_channel(identity: Identity) -> grpc.aio.Channel:
    """A channel under the site's own certificate."""
    key, certificate = identity.tls_key_pem.encode(), identity.certificate_pem.encode()
    return _channel(identity.address, identity.ca_pem.encode(), key, certificate)


def explained(error: grpc.aio.AioRpcError, address: str) -> MorettaError:
    """What a failed call means to a person."""
    details = (error.details() or "no reason given")[:300]
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return EnrollmentError(
                f"the server does not know this site any more: {details}",
                expected="an enrollment that was not revoked",
                fix=WAY_BACK,
            )
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.ALREADY_EXISTS | grpc.StatusCode.INVALID_ARGUMENT:
            return EnrollmentError(f"the server refuses: {details}", fix="ask the coordinator")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(
                f"the server at {address} cannot be reached: {details}",
                fix="run `moretta site doctor`; the server may be down for a while",
            )
        case code:
            return UnreachableError(f"the server at {address} failed with {code.name}: {details}")


def _channel(address: str, ca: bytes, key: bytes, certificate: bytes) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


def _shown_chain(address: str) -> list[bytes]:
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=_LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return _chain(secured)
    except ssl.SSLError as error:
        raise EnrollmentError(
            f"whoever answers at {address} does not speak TLS 1.3 ({error.reason or error})",
            expected="a Moretta server",
            fix="check the address with the coordinator; nothing was sent",
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"nobody answers at {address}: {error}",
            expected="a Moretta server",
            fix="check the address with the coordinator, and that the firewall lets this connection out",
        ) from error


def _chain(secured: ssl.SSLSocket) -> list[bytes]:
    if hasattr(secured, "get_unverified_chain"):  # Python 3.13
        return list(secured.get_unverified_chain())
    certificates = secured._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return [certificate.public_bytes(2) for certificate in certificates]  # 2 is DER
