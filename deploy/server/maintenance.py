"""What a running server does again and again: check its parts, keep Flower alive and in step, write its state."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from moretta.deploy.runtime.processes import OnEvent
from moretta.deploy.server.superlink_process import FlowerProcesses
from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, load_certificate
from moretta.server.enrollment.nodes import NodeKeeper
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import RunningServer, ServerHome
from moretta.server.port.credentials import PortCertificates
from moretta.server.port.guard import Guard
from moretta.server.port.refusals import Refusal
from moretta.server.relay.service import RelayService
from moretta.server.relay.superlink_client import SuperLinkClient
from moretta.shared.core.errors import HomeError

_HANGS_SECONDS = 60.0
"""A SuperLink that lives and has not responded for so long is ended and started again."""
_log = logging.getLogger(__name__)


@dataclass
class Maintenance:
    """The duties of one server, and the parts that they need."""

    home: ServerHome
    authority: CertificateAuthority
    registry: SiteRegistry
    audit: AuditLog
    certificates: PortCertificates
    guard: Guard
    relay: RelayService
    superlink: SuperLinkClient
    flower: FlowerProcesses
    nodes: NodeKeeper
    listen: str
    on_event: OnEvent
    problems: dict[str, str | None]
    started: float = field(default_factory=time.time)
    _responded: float = field(default_factory=time.monotonic)
    _known_keys: dict[str, bool] | None = None
    _node_problems: list[str] = field(default_factory=list)
    _was_ready: bool = False
    _written: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Do them all, each at its own pace, until `stop` is set."""
        paced: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.5, self.keep_flower_alive),
            (0.5, self.check_parts),
            (0.5, self.keep_nodes),
            (1.0, lambda: asyncio.to_thread(self.audit.sync)),
            (5.0, lambda: asyncio.to_thread(self.relay.keep_counts, self.relay.take_counts())),
            (5.0, lambda: asyncio.to_thread(_give_memory_back)),
            (30.0, self.housekeeping),
        ]
        await asyncio.gather(*(_every(seconds, task, stop) for seconds, task in paced))

    async def keep_flower_alive(self) -> None:
        """Start again what has ended."""
        if await asyncio.to_thread(self.flower.keep_alive):
            self._known_keys = None  # find out what a new SuperLink knows
        if self.problems["superlink"] is None:
            self._responded = time.monotonic()
        elif self.flower.superlink.alive() and time.monotonic() - self._responded > _HANGS_SECONDS:
            self._responded = time.monotonic()
            self.on_event("superlink-hangs", {"pid": self.flower.superlink.pid})
            await asyncio.to_thread(self.flower.superlink.kill)

    async def check_parts(self) -> None:
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

    async def keep_nodes(self) -> None:
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

    async def housekeeping(self) -> None:
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
        if not self.flower.superlink.alive():
            return "Flower's SuperLink has ended and is started again"
        if not self.flower.superexec.alive():
            return "Flower's SuperExec has ended and is started again"
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
            superlink_ca=str(self.flower.files.ca),
            flwr_home=str(self.flower.files.flwr_home),
            problems=dict(self.problems),
            mark=self.flower.mark,
        ).write(self.home)


def _give_memory_back() -> None:
    """Long bodies leave glibc with free memory that it would keep; elsewhere there is nothing to do."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _every(seconds: float, task: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await task()
        except Exception:  # one duty that fails must not end the others
            _log.exception("a duty of the server failed")
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            continue
