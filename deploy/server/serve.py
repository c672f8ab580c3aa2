"""`moretta server up`: one process that opens the port, keeps Flower running behind it, and watches over both."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.processes import OnEvent
from moretta.deploy.server.superlink_process import FlowerProcesses
from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, load_certificate
from moretta.server.enrollment.countersign import Countersigner
from moretta.server.enrollment.findings import FindingsService
from moretta.server.enrollment.nodes import NodeKeeper
from moretta.server.enrollment.service import EnrollmentService
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import RunningServer, ServerHome
from moretta.server.port.guard import Guard, Method
from moretta.server.port.listen import ENROLLMENT, HEALTH, RELAY, PortCertificates, health_methods, open_port
from moretta.server.port.refusals import Refusal
from moretta.server.port.relay import RelayService, SeenSignatures, SentMessages
from moretta.server.port.superlink import SuperLinkClient
from moretta.shared.core.errors import HomeError
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.enrollment import join_address, split_address
from moretta.shared.pb.enrollment_pb2 import InfoReply

_GRACE_SECONDS = 3.0
"""How long calls in flight may go on after the port has closed."""
_HANGS_SECONDS = 60.0
"""Seconds without a response after which a running SuperLink is ended and started again."""
_log = logging.getLogger(__name__)


async def serve(home: ServerHome, authority: CertificateAuthority, on_event: OnEvent) -> None:
    """Run the server of a folder that this process holds until SIGTERM or SIGINT; `on_event` gets what happens.

    Raises HomeError if the registry or the log cannot be used, or the port cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        server = _ServerParts(home, authority, on_event)
        await server.start(stack)
        await server.run(stop)
        on_event("stopping", {})


class _ServerParts:
    """The parts of one server, and what it does again and again: check them, keep Flower alive and in step, write its
    state."""

    def __init__(self, home: ServerHome, authority: CertificateAuthority, on_event: OnEvent) -> None:
        self.home, self.authority, self.on_event = home, authority, on_event
        self.problems: dict[str, str | None] = {"registry": None, "authority": None}
        self.problems["superlink"] = "Flower's SuperLink is starting"
        self.started, self._responded, self._written = time.time(), time.monotonic(), 0.0
        self._known_keys: dict[str, bool] | None = None
        self._node_problems: list[str] = []
        self._was_ready = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Start every part; `stack` ends them in the reverse order."""
        home, settings, clock = self.home, self.home.settings, time.time
        self.audit = AuditLog(home.audit_log, clock)
        last_let_through = min(self.audit.last_time, clock())  # a clock once ahead must not shut the relay for long
        self.registry = SiteRegistry.open(home.registry)
        stack.callback(self.registry.close)
        hours = settings.lifetimes.server_hours
        self.certificates = PortCertificates(
            self.authority, self.registry, names=settings.names, hours=hours, clock=clock
        )
        self.guard = Guard(self.registry, settings.limits, self.audit, clock)
        self.flower = FlowerProcesses(home.superlink, port=settings.superlink_port, on_event=self._note_and_log)
        self.superlink = await stack.enter_async_context(
            SuperLinkClient(self.flower.address, max_response_bytes=settings.limits.max_call_bytes)
        )
        self.nodes = NodeKeeper(self.superlink, self.registry, self.audit)
        signatures = SeenSignatures(clock, last_let_through=last_let_through)
        self.sent = SentMessages(home.sent_file)
        self.relay = RelayService(
            self.superlink,
            self.registry,
            self.audit,
            signatures,
            clock,
            self.sent,
            may_hold=lambda: self.guard.admission.calls_open < settings.limits.calls_open // 2,
        )
        site_hours = settings.lifetimes.site_hours
        enrollment = EnrollmentService(
            self.authority, self.registry, self.audit, self._facts, site_hours=site_hours, clock=clock
        )
        countersigner = Countersigner(self.registry, self.certificates, self.audit, clock)
        findings = FindingsService(home.findings, settings.limits.max_call_bytes)
        services: dict[str, Sequence[Method]] = {
            ENROLLMENT: [*enrollment.methods(), *countersigner.methods(), *findings.methods()],
            RELAY: self.relay.methods(),
            HEALTH: health_methods(lambda: self.problems),
        }
        try:
            server, port = open_port(
                settings.listen,
                certificates=self.certificates,
                guard=self.guard,
                services=services,
                limits=settings.limits,
            )
        except OSError as error:
            raise HomeError(
                f"the port {settings.listen} cannot be opened",
                expected="an address of this machine, and a port that is not in use",
                fix=f"stop what uses it, or correct listen in {home.root / 'server.toml'}",
            ) from error
        self.listen = join_address(split_address(settings.listen)[0], port)
        self.audit.add("server-started", listen=self.listen, ca=self.authority.fingerprint)
        stack.callback(self._write_last)
        stack.push_async_callback(asyncio.to_thread, self.flower.stop)
        stack.push_async_callback(server.stop, _GRACE_SECONDS)
        await server.start()
        fields = {"listen": self.listen, "address": settings.address, "ca": self.authority.fingerprint}
        self.on_event("listening", fields)
        await asyncio.to_thread(self.flower.start)
        asyncio.get_running_loop().run_in_executor(None, self._facts)  # so that the first Info need not wait

    def _note_and_log(self, event: str, fields: dict[str, Any]) -> None:
        self.audit.add(event, **fields)
        self.on_event(event, fields)

    def _facts(self) -> InfoReply:
        found = versions()
        return InfoReply(
            moretta_version=found["moretta"],
            flwr_version=found["flwr"],
            code_digest=code_digest(),
            bundle_digest=installed_bundle().digest,
            max_call_bytes=self.home.settings.limits.max_call_bytes,
        )

    def _write_last(self) -> None:
        self.relay.keep_counts(self.relay.take_counts())
        self.guard.refusals.flush()
        self.audit.add("server-stopped")

    async def run(self, stop: asyncio.Event) -> None:
        """Do all duties, each at its own pace, until `stop` is set."""
        paced: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.05, self.sent.look),
            (0.5, self._keep_flower_alive),
            (0.5, self._check_parts),
            (0.5, self._keep_nodes),
            (1.0, lambda: asyncio.to_thread(self.audit.sync)),
            (5.0, lambda: asyncio.to_thread(self.relay.keep_counts, self.relay.take_counts())),
            (5.0, lambda: asyncio.to_thread(_give_memory_back)),
            (30.0, self._housekeeping),
        ]
        await asyncio.gather(*(_every(seconds, task, stop) for seconds, task in paced))

    async def _keep_flower_alive(self) -> None:
        if await asyncio.to_thread(self.flower.keep_alive):
            self._known_keys = None  # find out what a new SuperLink knows
        if self.problems["superlink"] is None:
            self._responded = time.monotonic()
        elif self.flower.superlink.alive() and time.monotonic() - self._responded > _HANGS_SECONDS:
            self._responded = time.monotonic()
            self.on_event("superlink-hangs", {"pid": self.flower.superlink.pid})
            await asyncio.to_thread(self.flower.superlink.kill)

    async def _check_parts(self) -> None:
        """Find out how every part is, and report what changed."""
        before = dict(self.problems)
        self.problems["registry"] = await asyncio.to_thread(self.registry.problem)
        self.problems["authority"] = self._problem_of_authority()
        self.problems["superlink"] = await self._problem_of_superlink()
        self._write_state(changed=self.problems != before)
        for part, problem in self.problems.items():
            if problem != before[part] and self._was_ready:
                self.on_event("recovered" if problem is None else "problem", {"part": part, "problem": problem})
        if not self._was_ready and not any(self.problems.values()) and self._known_keys is not None:
            self._was_ready = True
            self.on_event("ready", {"seconds": round(time.time() - self.started, 2), "superlink": self.flower.port})

    async def _keep_nodes(self) -> None:
        """Bring Flower in step with the registry where either has changed."""
        if self.problems["superlink"] is not None or self.problems["registry"] is not None:
            return
        # As it was before: what is enrolled during the reconciling needs another one
        keys = {key.public_key: key.current for key in await asyncio.to_thread(self.registry.node_keys)}
        if keys == self._known_keys:
            return
        try:
            problems = await self.nodes.reconcile()
            self._known_keys = keys
        except Refusal as refusal:  # tried again at the next turn, reported once
            problems = [refusal.message]
        if problems != self._node_problems:
            self._node_problems = problems
            for problem in problems:
                self.on_event("node-problem", {"problem": problem})

    async def _housekeeping(self) -> None:
        """Renew the port's certificate in time, keep logs short."""
        if await asyncio.to_thread(self.certificates.renew_if_due):
            self.audit.add("server-certificate", serial=self.certificates.issued.serial)
            self.on_event("server-certificate-renewed", {"not_after": self.certificates.issued.not_after})
        self.guard.refusals.flush(only_after_seconds=60.0)
        await asyncio.to_thread(self.flower.trim_logs)

    def _problem_of_authority(self) -> str | None:
        try:
            on_disk = load_certificate(self.home.authority)
        except HomeError as error:
            return error.found
        if on_disk != self.authority.certificate or not (self.home.authority / "ca.key").exists():
            return "the certificate authority was removed or replaced while the server runs"
        return None if self.authority.not_after > time.time() else "the certificate authority has expired"

    async def _problem_of_superlink(self) -> str | None:
        for name, child in (("SuperLink", self.flower.superlink), ("SuperExec", self.flower.superexec)):
            if not child.alive():
                return f"Flower's {name} has ended and is started again"
        return None if await self.superlink.is_healthy() else "Flower's SuperLink does not respond"

    def _write_state(self, *, changed: bool) -> None:
        now = time.time()
        if not changed and now - self._written < 2.0:
            return
        self._written = now
        RunningServer(
            pid=os.getpid(),
            started=self.started,
            updated=now,
            listen=self.listen,
            address=self.home.settings.address,
            superlink=f"127.0.0.1:{self.flower.port}",
            superlink_ca=str(self.flower.ca),
            flwr_home=str(self.flower.flwr_home),
            problems=dict(self.problems),
            mark=self.flower.mark,
        ).write(self.home)


def _give_memory_back() -> None:
    """Return free memory to the system, which glibc would keep after long bodies; elsewhere do nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _every(seconds: float, task: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await task()
        except Exception:  # one duty that fails must not end the others
            _log.exception("a duty of the server failed")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
