"""One-time tokens: made here, printed once, kept without their secret."""

from __future__ import annotations

import time

from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.site_registry import Registry
from moretta.shared.enrollment.bootstrap_certificate import derive_bootstrap
from moretta.shared.enrollment.identifiers import check_site_name, fingerprint
from moretta.shared.enrollment.join_string import JoinString, new_secret, new_token_id


def issue_token(
    registry: Registry,
    *,
    site: str,
    address: str,
    ca_fingerprint: str,
    hours: float,
    reenroll: bool = False,
    clock: Clock = time.time,
) -> JoinString:
    """A join string for one site. Earlier ones for the same site stop working.

    Args:
        registry: keeps everything but the secret.
        site: the only name that it enrolls.
        address: where the site reaches the server, HOST:PORT.
        ca_fingerprint: what the site pins.
        hours: until it expires.
        reenroll: lets an enrolled or revoked name come back with new keys.
        clock: seconds since 1970.

    Raises:
        EnrollmentError: the name cannot be, or is taken and `reenroll` is not set.
    """
    join = JoinString(
        address=address,
        site=check_site_name(site),
        token_id=new_token_id(),
        secret=new_secret(),
        ca_fingerprint=ca_fingerprint,
        expires=int(clock() + hours * 3600),
    )
    der = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires).certificate_der
    registry.add_token(
        join.token_id,
        site=site,
        bootstrap_der=der,
        fingerprint=fingerprint(der),
        expires=join.expires,
        reenroll=reenroll,
    )
    return join
