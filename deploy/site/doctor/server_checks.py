"""Looks at the server, from the name of its host to the hand of its clock."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import look_at_authority
from moretta.deploy.bundle import installed_bundle
from moretta.deploy.runtime.proxies import named_proxies
from moretta.deploy.site.doctor.doctor_findings import Findings
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.enrollment.identifiers import split_address
from moretta.shared.pb.enrollment_pb2 import InfoReply

_AHEAD_SECONDS, _BEHIND_SECONDS = 4.0, 290.0
"""The server takes what was signed up to 5 s ahead of its clock, or 300 s behind it."""
_OFF_SECONDS = 2.0
_CONNECT_SECONDS = 5.0


def met(notes: Findings, identity: Identity) -> bool:
    """Name, port, authority; whether the server that was joined answers."""
    host, port = split_address(identity.address)
    if proxies := named_proxies(os.environ):
        notes.ok("proxy", f"{', '.join(proxies)} named in the environment, and not used: this site dials the server")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = f"check the name with the coordinator, and this machine's DNS: getent hosts {host}"
        notes.fault("dns", f"the name {host} is not known ({error.strerror})", fix=fix, code=ExitCode.UNREACHABLE)
        return False
    notes.ok("dns", f"{host} is known")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        fix = (
            f"let this machine open TCP connections to {identity.address} without a proxy; ask whether the server runs"
        )
        notes.fault("port", f"no connection to {identity.address}: {error}", fix=fix, code=ExitCode.UNREACHABLE)
        return False
    notes.ok("port", f"{identity.address} takes connections")
    shown = notes.tried(
        "authority",
        lambda: look_at_authority(identity.address, identity.ca_fingerprint),
        lambda _: f"{identity.ca_fingerprint[:16]}..., the one that was joined",
    )
    return shown is not None


def look_at_server(notes: Findings, identity: Identity, clock: Callable[[], float]) -> None:
    """Whether it knows this site, what its clock says, and what it runs."""
    found = notes.tried(
        "enrollment", lambda: asyncio.run(_server_info(identity, clock)), lambda _: "the server knows this site"
    )
    if found is not None:
        info, ahead_seconds = found
        look_at_clock(notes, ahead_seconds=ahead_seconds)
        look_at_code(notes, info)


async def _server_info(identity: Identity, clock: Callable[[], float]) -> tuple[InfoReply, float]:
    """What the server runs, and by how many seconds this clock is ahead of its."""
    await enrollment.status(identity)
    began = clock()
    info = await enrollment.info(identity)
    return info, (began + clock()) / 2 - info.unix_time_ms / 1000


def look_at_clock(notes: Findings, *, ahead_seconds: float) -> None:
    """Signatures carry a time: with a wrong clock every call is refused."""
    text = f"{abs(ahead_seconds):.1f} s {'ahead of' if ahead_seconds > 0 else 'behind'} the server's"
    fix = "set the clock, and keep it set: timedatectl set-ntp true"
    if ahead_seconds > _AHEAD_SECONDS or ahead_seconds < -_BEHIND_SECONDS:
        notes.fault("clock", text, fix=fix, code=ExitCode.ENROLLMENT)
    elif abs(ahead_seconds) > _OFF_SECONDS:
        notes.warning("clock", text, fix=fix)
    else:
        notes.ok("clock", text)


def look_at_code(notes: Findings, info: InfoReply) -> None:
    """Whether both sides run the same."""
    own, bundle = versions(), installed_bundle().digest
    for name, there in (("moretta", info.moretta_version), ("flwr", info.flwr_version)):
        if there and there != own[name]:
            fix = f"install the server's version of {name}, or ask the coordinator to install this one"
            notes.warning("server's versions", f"{name} {own[name]} here, {there} at the server", fix=fix)
    same = "install the same build of Moretta here and at the server"
    if info.code_digest and info.code_digest != code_digest():
        text = f"{code_digest()[:12]} here, {info.code_digest[:12]} at the server"
        notes.warning("server's code", text, fix=same)
    if info.bundle_digest and info.bundle_digest != bundle:
        text = f"{bundle[:12]} here, {info.bundle_digest[:12]} at the server: this site refuses to run it"
        notes.fault("server's bundle", text, fix=same, code=ExitCode.REFUSED)
