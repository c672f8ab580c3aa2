"""What the registry answers with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """A site's certificate, as the registry has it at this moment."""

    site: str
    serial: str
    fingerprint: str
    not_after: int
    revoked: bool
    revocation_told: bool
    node_key: str
    """The site's current one, in OpenSSH form; empty if it has none."""
    last_call: int


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that is neither used nor withdrawn nor expired."""

    token_id: str
    site: str
    fingerprint: str
    bootstrap_der: bytes
    reenroll: bool
    expires: int


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site, as the coordinator sees it."""

    name: str
    state: str
    """`enrolled`, `revoked` or `left`."""
    enrolled_at: int
    not_after: int
    """End of its newest certificate, in seconds since 1970."""
    node_key: str
    """OpenSSH form; empty if none is in use."""
    node_id: int | None
    """Flower's; None until Flower's SuperLink knows the node key."""
    moretta_version: str
    last_call: int
    calls: int
    bytes_from: int
    bytes_to: int


@dataclass(frozen=True, slots=True)
class NodeKeyRecord:
    """A node key that is, or was, a site's."""

    site: str
    public_key: str
    """OpenSSH form."""
    node_id: int | None
    current: bool
    """Whether Flower's SuperLink shall know it."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What an enrollment changed."""

    site: str
    token_id: str
    again: bool
    """The name was known before."""
