"""A running site's certificate: renewed at two thirds of its life, or taken over from `moretta site renew`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from moretta.client.site_home import SiteHome
from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import WAY_BACK, ServerChannel
from moretta.shared.core.errors import EnrollmentError, MorettaError

WATCH_SECONDS = 2.0
_BASE_SECONDS, _CAP_SECONDS = 2.0, 300.0
_log = logging.getLogger(__name__)


class Renewal:
    """Keeps a link under a certificate that is good.

    Args:
        home: folder of the site, with the identity.
        link: to the server, which presents the certificate.
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
        self._spread = jitter()
        self._failures = 0
        self._not_before = 0.0
        """No attempt before this time, in seconds since 1970."""

    async def keep(self) -> None:
        """Renew whenever it is due.

        Raises:
            EnrollmentError: the certificate has expired.
        """
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
            await self._sleep(WATCH_SECONDS)

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
