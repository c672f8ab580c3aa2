"""Names of sites, addresses of servers and fingerprints of certificates, as people write them.

Names are short, lower case and plain ASCII, so that no two look alike in a certificate, a log or a path. An address is
`host:port`, with an IPv6 address in brackets. A fingerprint is SHA-256 over the DER form, compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re

from moretta.shared.core.errors import EnrollmentError

_SITE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


def check_site_name(name: str) -> str:
    """Return `name` if a site may have it.

    Raises:
        EnrollmentError: it is not 1 to 63 of `a-z`, `0-9` and `-` with no hyphen at either end.
    """
    if not _SITE_NAME.fullmatch(name):
        raise EnrollmentError(
            f"{name[:80]!r} as the name of a site",
            expected="1 to 63 of a-z, 0-9 and '-', with no hyphen at either end",
            fix="choose a name such as clinic-a",
        )
    return name


def split_address(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port of `host:port`.

    Raises:
        EnrollmentError: it is of another form, or the port is not within 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    good_host = _is_ipv6(bare) if bare != host else _HOST.fullmatch(host) is not None
    if not good_host or not _PORT.fullmatch(port) or int(port) > 65_535:
        raise EnrollmentError(
            f"{address[:80]!r} as an address",
            expected="HOST:PORT, such as moretta.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443",
        )
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """The reverse of `split_address`: puts brackets around an IPv6 address."""
    address = f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"
    split_address(address)
    return address


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form that `fingerprint` gives."""
    return _FINGERPRINT.fullmatch(text) is not None


def has_fingerprint(der: bytes, expected: str) -> bool:
    """Whether a certificate has this fingerprint. Takes the same time however much of it agrees."""
    return hmac.compare_digest(fingerprint(der).encode(), expected.encode())
