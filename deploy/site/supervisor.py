"""`moretta site run`: connector, SuperNode and renewal in one foreground process that ends cleanly."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moretta.client.accounting.ledger import Countersigned
from moretta.client.policy import Policy
from moretta.client.settings import deployed_site
from moretta.client.site_home import SiteHome, SiteState
from moretta.client.site_log import Follower
from moretta.client.transport import enrollment
from moretta.client.transport.bundle_gate import BundleGate
from moretta.client.transport.connector import Connector, LoopbackServer
from moretta.client.transport.identity import WAY_BACK, Identity
from moretta.client.transport.server_channel import ChannelDown, ServerChannel
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.site.site_report import fetch_report, is_kept, studies_sent
from moretta.deploy.site.supernode import SuperNodeCommand, SuperNodeKeeper
from moretta.shared.audit.report import verdict
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import EnrollmentError, MorettaError
from moretta.shared.messages.relay import Bundle

_STATE_SECONDS = 1.0
_REPORT_SECONDS = 30.0
_LATEST_REPORT_SECONDS = 14 * 24 * 3600.0
"""Seconds after the last data left for a study in which its report is fetched; later it is fetched by hand."""
_WATCH_SECONDS = 2.0
_BASE_SECONDS, _CAP_SECONDS = 2.0, 300.0
"""First and longest pause between attempts to renew a certificate, in seconds."""
_log = logging.getLogger(__name__)


async def run_site(home: SiteHome) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        HomeError: the folder cannot be used, or another process uses it.
        PolicyError: the policy refuses the server, the installed code or bundle, or noise from a seed.
        EnrollmentError: the server does not know this site any more, or the certificate has expired.
        RefusedError: the privacy ledger is broken, or older than the server knows it.
    """
    deployed_site(home.root)  # refuse here first what its ClientApp would refuse at each message
    bundle = installed_bundle()
    Policy.load(home.policy_file).check_pinned("bundle_digest", bundle.digest)
    home.prepare()
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    with home.locked():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        try:
            await _Site(home, bundle).run(stopped)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Site:
    """The parts of a running site."""

    def __init__(self, home: SiteHome, bundle: Bundle) -> None:
        identity = Identity.load(home.identity_file)
        gate = BundleGate(bundle)
        self._home = home
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel = ServerChannel(identity)
        self._ledger = Countersigned(home.root / "ledger.jsonl", identity)
        self._connector = Connector(
            self._channel,
            gate,
            identity.node_public_key,
            before_leaving=self._have_ledger_signed,
            on_end=self._note_end,
        )
        self._loopback = LoopbackServer(self._connector.app(), home.keys)
        self._renewal = Renewal(home, self._channel, identity)
        self._supernode = SuperNodeKeeper(
            SuperNodeCommand(
                home=home,
                connector_port=self._loopback.port,
                root_certificate=self._loopback.certificate.absolute(),
                node_key=_written(home.keys / "node", identity.node_key),
                trusted_entities=_written(home.keys / "trusted.yaml", gate.trusted_entities),
            ),
            on_start=self._connector.note_start,
        )

    async def run(self, stopped: asyncio.Event) -> None:
        """Run until `stopped`, or until a part ends with an error."""
        parts = {
            "link": self._channel.keep(),
            "connector": self._loopback.serve(),
            "renewal": self._renewal.keep(),
            "state": self._write_state(),
            "journal": self._show_journal(),
            "reports": self._fetch_reports(),
        }
        lasting: set[asyncio.Future[Any]] = {asyncio.create_task(part, name=name) for name, part in parts.items()}
        lasting.add(self._end)
        supernode = asyncio.create_task(self._supernode.keep(), name="supernode")
        stop = asyncio.create_task(stopped.wait(), name="stop")
        _log.info("the site %s serves %s", self._renewal.identity.site, self._renewal.identity.address)
        done, _ = await asyncio.wait({*lasting, supernode, stop}, return_when=asyncio.FIRST_COMPLETED)
        await _ended(supernode)  # first, as it signs off through the connector
        self._loopback.stop()
        await _ended(stop, *lasting)
        self._home.state_file.unlink(missing_ok=True)
        for task in done - {stop}:
            task.result()

    def _note_end(self, error: MorettaError) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    async def _have_ledger_signed(self) -> None:
        """Notice a ledger that was put back to an older state before anything leaves."""
        channel = self._channel.channel
        if channel is None:
            raise ChannelDown
        await self._ledger.bring_up_to_date(channel)

    async def _show_journal(self) -> None:
        """Log each release and refusal that the site's other processes note in the journal."""
        follower = Follower(self._home.root)
        while True:
            for line in follower.lines():
                _log.info("%s", line)
            await asyncio.sleep(_STATE_SECONDS)

    async def _fetch_reports(self) -> None:
        """Keep the report of each study that is over and got something from here, and show its verdict once."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            try:
                sent = await asyncio.to_thread(lambda: list(studies_sent(self._home)))
            except MorettaError as error:  # a record of one study that is damaged: the site serves the others
                _log.warning("it is not known which reports to fetch: %s", error)
                continue
            for study, name, at in sent:
                over = is_kept(self._home, study, at) or time.time() - at > _LATEST_REPORT_SECONDS
                if over or self._channel.channel is None:
                    continue
                try:
                    found = await fetch_report(self._home, study, self._channel.channel)
                except MorettaError as error:
                    _log.warning("the report of %s could not be had: %s", name, error)
                    continue
                if found is not None:
                    _log.info("study %s is over: %s", name, "; ".join(verdict.lines(found.gate)))
                    _log.info("its report: moretta site report %s; this site's ledger: moretta site ledger", study[:16])

    async def _write_state(self) -> None:
        while True:
            identity, traffic = self._renewal.identity, self._connector.traffic
            state = SiteState(
                pid=os.getpid(),
                site=identity.site,
                server=identity.address,
                written=time.time(),
                connected=self._channel.up,
                online=traffic.online and self._channel.up and self._supernode.pid is not None,
                supernode=self._supernode.pid,
                supernode_starts=self._supernode.starts,
                certificate_ends=identity.not_after.timestamp(),
                calls=traffic.calls,
                failed_calls=traffic.failed,
                bytes_out=traffic.bytes_out,
                bytes_in=traffic.bytes_in,
            )
            write_atomic(self._home.state_file, json.dumps(asdict(state)))
            await asyncio.sleep(_STATE_SECONDS)


def _written(path: Path, content: str) -> Path:
    """Write a copy for Flower, which reads files."""
    write_atomic(path, content)
    return path.absolute()


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):  # errors are raised from those that ended by themselves
            await task


class Renewal:
    """Keeps a link under a good certificate, renewed at two thirds of its life or taken over from `moretta site renew`.

    Args:
        clock: seconds since 1970.
        sleep: between checks of the clock and the file.
        jitter: uniform in [0, 1).
    """

    def __init__(
        self,
        home: SiteHome,
        channel: ServerChannel,
        identity: Identity,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._home, self._channel, self.identity = home, channel, identity
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._spread, self._failures = jitter(), 0
        self._not_before = 0.0
        """No attempt before this time, in seconds since 1970."""

    async def keep(self) -> None:
        """Renew whenever it is due. Raises EnrollmentError: the certificate has expired."""
        while True:
            self._take_over()
            now, end = self._clock(), self.identity.not_after.timestamp()
            if now >= end:
                raise EnrollmentError(
                    f"the certificate of {self.identity.site} expired {self.identity.not_after:%Y-%m-%d %H:%M} UTC",
                    expected="a renewal at two thirds of its life",
                    fix=f"{WAY_BACK}; if the clock is wrong, set it",
                )
            if now >= max(self.identity.renew_at(self._spread).timestamp(), self._not_before):
                await self._renew()
            await self._sleep(_WATCH_SECONDS)

    async def _renew(self) -> None:
        try:
            self._use(await enrollment.renew(self._home, self._channel.channel))
        except MorettaError as error:
            self._failures += 1
            wait = self._jitter() * min(_CAP_SECONDS, _BASE_SECONDS * 2 ** min(self._failures, 16))
            self._not_before = self._clock() + wait
            _log.warning("the certificate could not be renewed, next attempt in %.0f s: %s", wait, error)
            return
        self._failures = 0
        _log.info("the certificate was renewed; it ends %s", f"{self.identity.not_after:%Y-%m-%d %H:%M} UTC")

    def _take_over(self) -> None:
        """Use a certificate that `moretta site renew` wrote meanwhile."""
        try:
            found = Identity.load(self._home.identity_file)
        except MorettaError as error:
            _log.warning("the site's identity cannot be read, the present one stays in use: %s", error)
            return
        if found != self.identity:
            _log.info("a certificate that `moretta site renew` wrote is taken over")
            self._use(found)

    def _use(self, identity: Identity) -> None:
        self.identity = identity
        self._spread = self._jitter()
        self._channel.swap(identity)
