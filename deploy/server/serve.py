"""`moretta server up`: one process that opens the port, keeps Flower running behind it, and watches over both."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.processes import OnEvent
from moretta.deploy.server.maintenance import Maintenance
from moretta.deploy.server.superlink_process import FlowerProcesses
from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority
from moretta.server.enrollment.countersign import Countersigner
from moretta.server.enrollment.database import open_database
from moretta.server.enrollment.nodes import NodeKeeper
from moretta.server.enrollment.service import EnrollmentService
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import ServerHome
from moretta.server.port.credentials import PortCertificates
from moretta.server.port.guard import Guard, Method
from moretta.server.port.listen import ENROLLMENT, HEALTH, RELAY, health_methods, open_port
from moretta.server.relay.call_checks import SeenSignatures
from moretta.server.relay.service import RelayService
from moretta.server.relay.superlink_client import SuperLinkClient
from moretta.shared.core.errors import HomeError
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.enrollment.identifiers import join_address, split_address
from moretta.shared.pb.enrollment_pb2 import InfoReply

_GRACE_SECONDS = 3.0
"""How long calls in flight may go on after the port has closed."""


async def serve(home: ServerHome, authority: CertificateAuthority, on_event: OnEvent) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        home: its folder, held by this process.
        authority: unlocked.
        on_event: gets what happens: an event, and fields.

    Raises:
        HomeError: the registry or the log cannot be used, or the port cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        maintenance = await _start(home, authority, on_event, stack)
        await maintenance.run(stop)
        on_event("stopping", {})


async def _start(
    home: ServerHome, authority: CertificateAuthority, on_event: OnEvent, stack: AsyncExitStack
) -> Maintenance:
    """Start every part; `stack` ends them in the reverse order."""
    settings = home.settings
    audit = AuditLog(home.audit_log, time.time)
    last_let_through = min(audit.last_time, time.time())  # a clock that was ahead once must not shut the relay for long
    registry = SiteRegistry.open(home.registry)
    stack.callback(registry.close)
    certificates = PortCertificates(
        authority, registry, names=settings.names, hours=settings.lifetimes.server_hours, clock=time.time
    )
    guard = Guard(registry, settings.limits, audit, time.time)

    def note_and_log(event: str, fields: dict[str, Any]) -> None:
        audit.add(event, **fields)
        on_event(event, fields)

    flower = FlowerProcesses(home.superlink, port=settings.superlink_port, on_event=note_and_log)
    superlink = await stack.enter_async_context(
        SuperLinkClient(flower.address, max_response_bytes=settings.limits.max_call_bytes)
    )
    relay = RelayService(
        superlink, registry, audit, SeenSignatures(time.time, last_let_through=last_let_through), time.time
    )

    def facts() -> InfoReply:
        found = versions()
        return InfoReply(
            moretta_version=found["moretta"],
            flwr_version=found["flwr"],
            code_digest=code_digest(),
            bundle_digest=installed_bundle().digest,
            max_call_bytes=settings.limits.max_call_bytes,
        )

    enrollment = EnrollmentService(
        authority, registry, audit, facts, site_hours=settings.lifetimes.site_hours, clock=time.time
    )
    heads = open_database(home.registry)
    stack.callback(heads.close)
    countersigner = Countersigner(heads, certificates, audit, time.time)
    problems: dict[str, str | None] = dict.fromkeys(("registry", "authority"))
    problems["superlink"] = "Flower's SuperLink is starting"
    services: dict[str, Sequence[Method]] = {
        ENROLLMENT: [*enrollment.methods(), *countersigner.methods()],
        RELAY: relay.methods(),
        HEALTH: health_methods(lambda: problems),
    }
    server, port = _open_port(home, certificates, guard, services)
    listen = join_address(split_address(settings.listen)[0], port)
    audit.add("server-started", listen=listen, ca=authority.fingerprint)
    stack.callback(_write_last, audit, guard, relay)
    stack.push_async_callback(asyncio.to_thread, flower.stop)
    stack.push_async_callback(server.stop, _GRACE_SECONDS)
    await server.start()
    on_event("listening", {"listen": listen, "address": settings.address, "ca": authority.fingerprint})
    await asyncio.to_thread(flower.start)
    asyncio.get_running_loop().run_in_executor(None, facts)  # so that the first Info need not wait
    return Maintenance(
        home=home,
        authority=authority,
        registry=registry,
        audit=audit,
        certificates=certificates,
        guard=guard,
        relay=relay,
        superlink=superlink,
        flower=flower,
        nodes=NodeKeeper(superlink, registry, audit),
        listen=listen,
        on_event=on_event,
        problems=problems,
    )


def _open_port(
    home: ServerHome, certificates: PortCertificates, guard: Guard, services: dict[str, Sequence[Method]]
) -> tuple[grpc.aio.Server, int]:
    listen, limits = home.settings.listen, home.settings.limits
    try:
        return open_port(listen, certificates=certificates, guard=guard, services=services, limits=limits)
    except OSError as error:
        raise HomeError(
            f"the port {listen} cannot be opened",
            expected="an address of this machine, and a port that is not in use",
            fix=f"stop what uses it, or correct listen in {home.root / 'server.toml'}",
        ) from error


def _write_last(audit: AuditLog, guard: Guard, relay: RelayService) -> None:
    relay.keep_counts(relay.take_counts())
    guard.refusals.flush()
    audit.add("server-stopped")
