"""A coordinator's office for tests: a registry and an authority under a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moretta.server.enrollment.authority import CertificateAuthority, Issued, create_authority
from moretta.server.enrollment.database import KnownToken
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.shared.enrollment import JoinString, derive_bootstrap, fingerprint


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def new_node_key() -> str:
    return openssh(ec.generate_private_key(ec.SECP384R1()).public_key())


def openssh(public: ec.EllipticCurvePublicKey) -> str:
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@dataclass
class Office:
    """Issues tokens and enrolls sites, as the service would."""

    registry: SiteRegistry
    authority: CertificateAuthority
    clock: Clock
    address: str = "127.0.0.1:1"

    @classmethod
    def at(cls, folder: Path, clock: Clock) -> Office:
        return cls(
            SiteRegistry.create(folder / "registry.sqlite", clock),
            create_authority(folder / "ca", passphrase=None, clock=clock),
            clock,
        )

    def join(self, site: str = "clinic-a", *, reenroll: bool = False, hours: float = 1) -> JoinString:
        return self.registry.issue_token(
            site=site,
            address=self.address,
            ca_fingerprint=self.authority.fingerprint,
            hours=hours,
            reenroll=reenroll,
        )

    def token(self, site: str = "clinic-a", *, reenroll: bool = False, hours: float = 1) -> KnownToken:
        join = self.join(site, reenroll=reenroll, hours=hours)
        made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
        token = self.registry.token(fingerprint(made.certificate_der))
        assert token is not None
        return token

    def issue(self, site: str = "clinic-a", key: ec.EllipticCurvePublicKey | None = None) -> Issued:
        key = key or ec.generate_private_key(ec.SECP256R1()).public_key()
        return self.authority.issue_site(site, key, hours=24)

    def enroll(self, token: KnownToken, node_key: str | None = None) -> Issued:
        node_key = node_key or new_node_key()
        issue = lambda: self.issue(token.site)  # noqa: E731
        return self.registry.enroll(token, node_key=node_key, moretta_version="1", issue=issue)[0]

    def state(self) -> list[object]:
        """All that an enrollment could have changed."""
        return [self.registry.sites(), self.registry.node_keys(), self.registry.outstanding_tokens()]
