"""The one outbound connection: hot swap, loss, reconnection and its jitter, against a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from mini_server import MiniServer, mini_server, run

from moretta.client.transport import server_channel as linking
from moretta.client.transport.server_channel import BASE_SECONDS, CAP_SECONDS, ChannelDown, ServerChannel, site_channel
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply


class Slept(list[float]):
    """A sleep that takes no time and remembers the requested seconds."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def linked(server: MiniServer, **said: Any) -> AsyncIterator[ServerChannel]:
    channel = ServerChannel(server.identity(), **said)
    task = asyncio.create_task(channel.keep())
    try:
        yield channel
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def call(body: bytes = b"x") -> FleetCall:
    return FleetCall(method="pull-messages", body=body)


def test_a_call_goes_out_and_comes_back_and_says_its_size() -> None:
    async def scene() -> None:
        async with mini_server() as server, linked(server) as channel:
            sizes: list[Any] = []

            async def relay(request: FleetCall, context: Any) -> FleetReply:
                sizes.append(dict(context.invocation_metadata())["moretta-body-bytes"])
                return FleetReply(status=200, body=request.body)

            server.relay = relay
            assert (await channel.call(call(b"12345"), seconds=5)).body == b"12345"
            assert sizes == ["5"]

    run(scene())


def test_a_hundred_megabytes_pass() -> None:
    async def scene() -> None:
        async with mini_server() as server, linked(server) as channel:
            body = bytes(100 * 2**20)
            assert len((await channel.call(call(body), seconds=30)).body) == len(body)

    run(scene())


def test_a_new_certificate_is_used_for_new_calls_and_a_call_in_flight_ends_on_the_old_one() -> None:
    async def scene() -> None:
        async with mini_server() as server, linked(server) as channel:
            entered, leave = asyncio.Event(), asyncio.Event()

            async def relay(request: FleetCall, context: Any) -> FleetReply:
                if request.body == b"slow":
                    entered.set()
                    await leave.wait()
                return FleetReply(status=200, body=request.body)

            server.relay = relay
            slow = asyncio.create_task(channel.call(call(b"slow"), seconds=20))
            await entered.wait()
            old, new = server.serials[-1], server.identity()
            before = channel.channel
            channel.swap(new)
            while channel.channel is before:
                await asyncio.sleep(0.01)
            assert (await channel.call(call(b"fast"), seconds=5)).body == b"fast"
            assert server.serials[-1] == new.certificate.serial_number != old
            assert not slow.done()
            leave.set()
            assert (await slow).body == b"slow"
            assert before is not None
            while before.get_state() is not grpc.ChannelConnectivity.SHUTDOWN:  # drained, and then closed
                await asyncio.sleep(0.01)

    run(scene())


def test_calls_go_on_without_a_loss_while_certificates_change_under_them() -> None:
    async def scene() -> None:
        async with mini_server() as server, linked(server) as channel:
            stop = asyncio.Event()

            async def caller(number: int) -> int:
                count = 0
                while not stop.is_set():
                    assert (await channel.call(call(b"%d" % number), seconds=10)).body == b"%d" % number
                    count += 1
                return count

            callers = [asyncio.create_task(caller(number)) for number in range(4)]
            for _ in range(5):
                channel.swap(server.identity())
                await asyncio.sleep(0.1)
            stop.set()
            assert sum(await asyncio.gather(*callers)) > 20
            assert len(set(server.serials)) >= 4

    run(scene())


async def until_down(channel: ServerChannel) -> None:
    """Until the link has noticed: calls on a connection that is just breaking may fail by themselves."""
    while True:
        try:
            await channel.call(call(), seconds=0.3)
        except ChannelDown:
            return
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.01)


def test_a_server_that_comes_back_is_found_again_and_a_waiting_call_goes_through() -> None:
    async def scene() -> None:
        slept = Slept()
        async with mini_server() as server, linked(server, sleep=slept) as channel:
            await channel.call(call(), seconds=5)
            await server.stop()
            await until_down(channel)
            waiting = asyncio.create_task(channel.call(call(b"kept"), seconds=30))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await server.start()
            assert (await waiting).body == b"kept"
            assert slept

    run(scene())


def test_a_link_that_stays_down_responds_in_time() -> None:
    async def scene() -> None:
        async with mini_server() as server:
            identity = server.identity()
            await server.stop()
            channel = ServerChannel(identity)
            task = asyncio.create_task(channel.keep())
            with pytest.raises(ChannelDown):
                await channel.call(call(), seconds=0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scene())


@pytest.mark.parametrize(("jitter", "share"), [(lambda: 0.0, 0.0), (lambda: 1.0, 1.0), (lambda: 0.25, 0.25)])
def test_waits_double_up_to_a_cap_with_full_jitter(jitter: Any, share: float) -> None:
    async def scene() -> Slept:
        slept = Slept()
        async with mini_server() as server:
            identity = server.identity()
            await server.stop()
            channel = ServerChannel(identity, sleep=slept, jitter=jitter)
            task = asyncio.create_task(channel.keep())
            while len(slept) < 10:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return slept

    waits = run(scene())[:10]
    assert waits == [share * min(CAP_SECONDS, BASE_SECONDS * 2**n) for n in range(1, 11)]
    assert waits[-1] == share * CAP_SECONDS


def test_a_server_that_takes_connections_and_drops_them_is_not_hammered() -> None:
    async def scene() -> Slept:
        slept = Slept()
        async with mini_server() as server, linked(server, sleep=slept, jitter=lambda: 1.0) as channel:
            server.trusted[:] = [server.trusted[0]]
            foreign = MiniServer()
            # A certificate of another authority: TLS 1.3 lets the client think that the handshake went well
            channel.swap(server.identity().model_copy(update=_pair(foreign)))
            for _ in range(6):
                with pytest.raises((grpc.aio.AioRpcError, ChannelDown)):
                    await channel.call(call(), seconds=0.2)
        return slept

    slept = run(scene())
    assert len(slept) >= 3
    assert slept == sorted(slept)
    assert slept[-1] > slept[0]


def _pair(foreign: MiniServer) -> dict[str, str]:
    identity = foreign.identity()
    return {"certificate_pem": identity.certificate_pem, "tls_key_pem": identity.tls_key_pem}


def test_a_connection_that_swallows_calls_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> int:
        opened: list[Any] = []

        def counted(identity: Any) -> Any:
            opened.append(site_channel(identity))
            return opened[-1]

        async with mini_server() as server, linked(server, open_channel=counted, sleep=Slept()) as channel:

            async def relay(request: FleetCall, context: Any) -> FleetReply:
                if len(opened) < 2:
                    await asyncio.sleep(30)
                return FleetReply(status=200, body=b"heard")

            server.relay = relay
            for _ in range(linking._SILENT_CALLS):
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.call(call(), seconds=0.2)
            assert (await channel.call(call(), seconds=5)).body == b"heard"
            return len(opened)

    assert run(scene()) == 2


def test_a_refusal_by_the_server_is_no_loss_of_the_connection() -> None:
    async def scene() -> None:
        async with mini_server() as server, linked(server) as channel:
            await channel.call(call(), seconds=5)
            server.refuse = (grpc.StatusCode.UNAVAILABLE, "superlink-down: try again")
            before = channel.channel
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.call(call(), seconds=5)
            assert channel.up
            server.refuse = None
            await channel.call(call(), seconds=5)
            assert channel.channel is before

    run(scene())


def test_a_link_ends_on_request_also_in_the_moment_in_which_it_connects() -> None:
    """`asyncio.wait_for` of Python 3.11 swallows a cancellation that comes as what it waits for is done."""

    async def scene() -> None:
        async with mini_server() as server:
            for number in range(60):
                task = asyncio.create_task(ServerChannel(server.identity()).keep())
                await asyncio.sleep(number / 4000)
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=10)
                assert done

    run(scene())
