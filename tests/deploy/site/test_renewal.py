"""When a running site renews, what it does where that fails, and that its link shows the new certificate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from mini_server import MiniServer, mini_server, run

from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import ServerChannel
from moretta.deploy.site.supervisor import Renewal
from moretta.shared.core.errors import EnrollmentError
from moretta.shared.pb.relay_pb2 import FleetCall

SAID = SiteFile(corpus=Path("/corpus"))
HOUR = 3600.0


class Time:
    """A clock that a sleep moves on, and that ends the test's patience after some hours."""

    def __init__(self, start: float, hours: float) -> None:
        self.now, self._end = start, start + hours * HOUR
        self.over = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += 240.0
        if self.now > self._end:
            self.over.set()
            await asyncio.sleep(60)
        await asyncio.sleep(0)


async def _lived(
    home: SiteHome, hours: float, *, jitter: float = 0.0
) -> tuple[Renewal, ServerChannel, Time, asyncio.Task[None]]:
    identity = Identity.load(home.identity_file)
    begun = identity.not_after.timestamp() - 24 * HOUR
    time, channel = Time(begun, hours), ServerChannel(identity)
    renewal = Renewal(home, channel, identity, clock=time, sleep=time.sleep, jitter=lambda: jitter)
    task = asyncio.create_task(renewal.keep())
    over = asyncio.create_task(time.over.wait())
    await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    return renewal, channel, time, task


@pytest.mark.parametrize(
    ("hours", "jitter", "renewals"), [(15.9, 0.0, 0), (16.1, 0.0, 1), (17.4, 1.0, 0), (17.6, 1.0, 1)]
)
def test_a_certificate_is_renewed_at_two_thirds_of_its_life_with_jitter(
    tmp_path: Path, hours: float, jitter: float, renewals: int
) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            renewal, channel, _, task = await _lived(home, hours, jitter=jitter)
            task.cancel()
            assert len(server.seen) - 1 >= renewals
            assert (len(server.seen) - 1 > 0) == (renewals > 0)
            assert (renewal.identity != before) == (renewals > 0)
            assert channel._wanted == renewal.identity == Identity.load(home.identity_file)

    run(scene())


def test_a_renewal_is_shown_by_the_link_and_costs_no_call(tmp_path: Path) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            identity = await enrollment.join(home, server.string(), SAID)
            channel = ServerChannel(identity)
            keeping = asyncio.create_task(channel.keep())
            call = FleetCall(method="pull-messages", body=b"x")
            await channel.call(call, seconds=5)
            time = Time(identity.not_after.timestamp() - 7 * HOUR, 24)
            renewal = Renewal(home, channel, identity, clock=time, sleep=asyncio.sleep, jitter=lambda: 0.0)
            renewing = asyncio.create_task(renewal.keep())
            while server.serials[-1] == identity.certificate.serial_number:
                assert (await channel.call(call, seconds=5)).body == b"x"
            assert server.serials[-1] == renewal.identity.certificate.serial_number
            renewing.cancel()
            keeping.cancel()
            await asyncio.gather(keeping, renewing, return_exceptions=True)

    run(scene())


def test_what_another_process_renewed_is_taken_over(tmp_path: Path) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            await enrollment.join(home, server.string(), SAID)
            renewal, channel, time, task = await _lived(home, 0.1)
            after = await enrollment.renew(home)
            time._end += HOUR
            time.over.clear()
            task.cancel()
            again = asyncio.create_task(renewal.keep())
            await time.over.wait()
            again.cancel()
            assert renewal.identity == channel._wanted == after

    run(scene())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED])
def test_a_server_that_does_not_renew_gets_the_request_again_until_the_certificate_ends(
    tmp_path: Path, code: grpc.StatusCode
) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            server.refuse = (code, "not now")
            renewal, _, _, task = await _lived(home, 30, jitter=1.0)
            with pytest.raises(EnrollmentError, match="expired"):
                await task
            assert 10 < len(server.seen) < 120  # for hours, and not at every look at the clock
            assert renewal.identity == before

    run(scene())


def test_a_server_that_comes_back_renews_the_next_time(tmp_path: Path) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            server.refuse = (grpc.StatusCode.UNAVAILABLE, "not now")

            async def recover() -> None:
                while len(server.seen) < 4:
                    await asyncio.sleep(0.001)
                server.refuse = None

            recovery = asyncio.create_task(recover())
            renewal, _, _, task = await _lived(home, 18, jitter=0.5)
            await recovery
            task.cancel()
            assert renewal.identity != before

    run(scene())


def test_an_identity_that_is_damaged_while_the_site_runs_does_not_stop_it(tmp_path: Path) -> None:
    async def scene() -> None:
        home = SiteHome(tmp_path / "site")
        async with mini_server() as server:
            before = await enrollment.join(home, server.string(), SAID)
            renewal, _, time, task = await _lived(home, 0.1)
            home.identity_file.write_text("{")
            time._end += HOUR
            time.over.clear()
            task.cancel()
            again: Any = asyncio.create_task(renewal.keep())
            await time.over.wait()
            assert not again.done()
            assert renewal.identity == before
            again.cancel()

    run(scene())


def test_sites_that_joined_together_do_not_renew_together() -> None:
    identity = MiniServer().identity()
    times = {identity.renew_at(spread).timestamp() for spread in (0.0, 0.5, 1.0)}
    start, end = identity.not_after.timestamp() - 24 * HOUR, identity.not_after.timestamp()
    assert min(times) == pytest.approx(start + 16 * HOUR)
    assert max(times) == pytest.approx(start + 17.5 * HOUR)
    assert max(times) < end
