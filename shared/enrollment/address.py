"""Where a server listens, as people write it: `host:port`, with an IPv6 address in brackets."""

from __future__ import annotations

import ipaddress
import re

from moretta.shared.core.errors import EnrollmentError

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


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
