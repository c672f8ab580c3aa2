"""Harm of one caller to the others: calls that are never finished, and messages that grow when unpacked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import MIB, Echo, RunningPort, SiteKeys, echo_superlink, key_pem, refusal, to_pem
from starlette.responses import Response

from moretta.server.home import Limits
from moretta.server.port import guard
from moretta.server.port.limits import Admission
from moretta.server.port.refusals import Refusal
from moretta.shared.enrollment import JoinString, derive_bootstrap
from moretta.shared.pb.enrollment_pb2 import LeaveRequest

RELAY, INFO, LEAVE = (
    "/moretta.relay.v1.Relay/Call",
    "/moretta.enrollment.v1.Enrollment/Info",
    "/moretta.enrollment.v1.Enrollment/Leave",
)
STREAMS = 64
"""Of one connection, as the port allows."""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    with echo_superlink(tmp_path_factory.mktemp("echo")) as echo:
        yield echo


@pytest.fixture
def port(tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningPort]:
    monkeypatch.setattr(guard, "_READ_SECONDS", 60.0)  # what is open stays open for as long as a test looks
    monkeypatch.setattr(guard, "_MOST_READ_SECONDS", 60.0)
    echo.calls.clear()
    echo.response = lambda path, body: Response(body)
    port = RunningPort(tmp_path, echo, limits=Limits(patience_seconds=60))
    yield port
    port.close()


Keys = tuple[bytes, bytes]
"""Key and certificate of a caller, PEM."""


def of_site(site: SiteKeys) -> Keys:
    return key_pem(site.key), to_pem(site.certificate)


def of_string(join: JoinString) -> Keys:
    made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
    return made.key_pem, made.certificate_pem


@asynccontextmanager
async def connection(port: RunningPort, keys: Keys) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(port.office.authority.pem, *keys)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port.port}", credentials, options=options) as channel:
        yield channel


@asynccontextmanager
async def unfinished(port: RunningPort, keys: Keys, path: str, number: int, *, held: int) -> AsyncIterator[list[str]]:
    """So many calls of which only the headers are sent; yields why calls were refused, once all others hold a place."""
    async with AsyncExitStack() as stack:
        calls: list[Any] = []
        for at in range(0, number, STREAMS):
            channel = await stack.enter_async_context(connection(port, keys))
            calls += [channel.stream_unary(path)() for _ in range(min(STREAMS, number - at))]
        while sum(call.done() for call in calls) < number - held or port.guard.admission.calls_open < held:
            await asyncio.sleep(0.01)
        yield [str(await call.details()) for call in calls if call.done()]
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("path", [RELAY, "/moretta.enrollment.v1.Enrollment/Status"])
def test_560_unfinished_calls_of_one_site_leave_every_other_caller_its_place(
    port: RunningPort, echo: Echo, path: str
) -> None:
    hostile, calm = port.enrolled("hostile"), port.enrolled("calm")
    held = 2 * port.limits.site_calls_in_flight

    async def scene() -> None:
        async with unfinished(port, of_site(hostile), path, 560, held=held) as refused:
            assert {why.partition(":")[0] for why in refused} == {"too-many-calls"}
            for _ in range(22):
                reply = await asyncio.to_thread(port.as_site(calm).relayed, calm.fleet_call())
                assert reply.status == 200
            joined = await asyncio.to_thread(port.enrolled, "new")
            assert joined.certificate

    port.run(scene())
    assert {s.name for s in port.office.registry.sites()} == {"hostile", "calm", "new"}


def test_560_unfinished_calls_with_one_join_string_leave_sites_and_other_strings_their_places(
    port: RunningPort, echo: Echo
) -> None:
    calm, string = port.enrolled("calm"), port.office.join("unused")

    async def scene() -> None:
        async with unfinished(port, of_string(string), INFO, 560, held=4):
            for _ in range(22):
                assert (await asyncio.to_thread(port.as_site(calm).relayed, calm.fleet_call())).status == 200
            await asyncio.to_thread(port.enrolled, "new")

    port.run(scene())


class Crowd:
    """Callers that hold places, as the tests say."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.held: dict[str, list[Any]] = {}

    def takes(self, name: str, own: int) -> bool:
        place = self.admission.place(name, own)
        try:
            place.__enter__()
        except Refusal:
            return False
        self.held.setdefault(name, []).append(place)
        return True

    def gives_back(self, name: str) -> None:
        if self.held.get(name):
            self.held[name].pop().__exit__(None, None, None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60), st.integers(1, 6))
def test_places_are_never_overdrawn_all_come_back_and_the_last_are_for_who_has_none(
    steps: list[tuple[bool, int]], own: int
) -> None:
    most, kept = 16, 2
    crowd = Crowd(Admission(Limits(calls_open=most)))
    for takes, number in steps:
        name = f"site-{number}"
        if not takes:
            crowd.gives_back(name)
            continue
        before, has = crowd.admission.calls_open, len(crowd.held.get(name, []))
        assert crowd.takes(name, own) == (has < own and before < (most - kept if has else most))
    assert crowd.admission.calls_open == sum(map(len, crowd.held.values())) <= most
    for name in list(crowd.held):
        while crowd.held[name]:
            crowd.gives_back(name)
    assert crowd.admission.calls_open == 0


def test_a_compressed_message_is_refused_and_never_unpacked(port: RunningPort, echo: Echo) -> None:
    """One of 1.3 MB became 620 MB: gRPC's limit of length is of the packed message."""
    site = port.enrolled()
    packed = site.fleet_call("get-fab", bytes(64 * MIB)).SerializeToString()

    async def scene() -> None:
        async with connection(port, of_site(site)) as channel:
            for path in (RELAY, "/moretta.enrollment.v1.Enrollment/Renew"):
                for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                    with pytest.raises(grpc.aio.AioRpcError) as error:
                        await channel.unary_unary(path)(packed, compression=algorithm, timeout=30)
                    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED

    port.run(scene())
    assert echo.calls == []
    assert port.as_site(site).relayed(site.fleet_call()).status == 200


@asynccontextmanager
async def opened(port: RunningPort, keys: Keys, path: str) -> AsyncIterator[Any]:
    """A call that was let in and waits for its body; sends it when called."""
    async with connection(port, keys) as channel:
        call = channel.stream_unary(path)()
        while not port.guard.admission.calls_open:
            await asyncio.sleep(0.01)

        async def send(body: bytes) -> bytes:
            await call.write(body)
            await call.done_writing()
            return bytes(await call)

        yield send


def test_a_call_that_was_opened_before_a_revocation_is_not_served_after_it(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()

    async def scene() -> None:
        async with opened(port, of_site(site), RELAY) as send:
            port.office.registry.end_site(site.name, "revoked")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await send(site.fleet_call("get-run", b"body").SerializeToString())
            assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")

    port.run(scene())
    assert echo.calls == []


def test_what_flower_responds_to_a_site_that_was_revoked_meanwhile_is_not_passed_on(
    port: RunningPort, echo: Echo
) -> None:
    site = port.enrolled()

    def response(path: str, body: bytes) -> Response:
        port.office.registry.end_site(site.name, "revoked")
        return Response(b"the model")

    echo.response = response
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).relayed(site.fleet_call("pull-object"))
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")


def test_a_revoked_site_cannot_leave_and_so_free_its_name(port: RunningPort) -> None:
    """Neither with a call that it had opened before, nor by the registry's own account."""
    site = port.enrolled()

    async def scene() -> None:
        async with opened(port, of_site(site), LEAVE) as send:
            port.office.registry.end_site(site.name, "revoked")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await send(LeaveRequest().SerializeToString())
            assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")

    port.run(scene())
    with pytest.raises(Refusal, match="revoked"):
        port.office.registry.end_site(site.name, "left")
    assert [s.state for s in port.office.registry.sites()] == ["revoked"]


def test_a_join_string_that_was_withdrawn_while_its_call_was_open_enrolls_nobody(port: RunningPort) -> None:
    string = port.office.join("clinic-a")

    async def scene() -> None:
        async with opened(port, of_string(string), "/moretta.enrollment.v1.Enrollment/Enroll") as send:
            port.office.join("clinic-a")  # makes the first one useless
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await send(b"")
            assert refusal(error.value) == ("UNAUTHENTICATED", "unknown-certificate")

    port.run(scene())
    assert port.office.registry.sites() == []


def test_a_site_that_fills_the_log_or_flower_s_state_is_stopped_for_the_day_and_others_are_not(
    tmp_path: Path, echo: Echo
) -> None:
    echo.response = lambda path, body: Response(b"")
    limits = Limits(site_calls_per_day=1000, site_bytes_per_day=MIB)
    now = [0.0]
    port = RunningPort(tmp_path, echo, limits=limits, admission=Admission(limits, monotonic=lambda: now[0]))
    site, calm = port.enrolled("hostile"), port.enrolled("calm")
    calls = port.as_site(site)
    assert calls.relayed(site.fleet_call("get-fab", bytes(MIB // 2))).status == 200
    for _ in range(2):
        before = len(echo.calls)
        with pytest.raises(grpc.RpcError) as error:
            calls.relayed(site.fleet_call("get-fab", bytes(MIB // 2 + 1)))
        assert refusal(error.value) == ("RESOURCE_EXHAUSTED", "too-fast")
        assert len(echo.calls) == before
    assert port.as_site(calm).relayed(calm.fleet_call("get-fab", bytes(MIB // 2))).status == 200
    now[0] += 86_400
    assert calls.relayed(site.fleet_call("get-fab", bytes(MIB // 2 + 1))).status == 200
    port.close()


def test_a_day_has_so_many_calls_of_a_site() -> None:
    async def scene() -> None:
        now = [0.0]
        admission = Admission(Limits(site_calls_per_day=1000, burst_calls=10_000), monotonic=lambda: now[0])

        async def call(name: str) -> None:
            async with admission.enter(name):
                pass

        for _ in range(1000):
            await call("hostile")
        with pytest.raises(Refusal, match="calls a second: slow down"):
            await call("hostile")
        await call("calm")
        now[0] += 87
        await call("hostile")

    asyncio.run(scene())


def test_calls_that_their_caller_cancels_write_nothing_to_the_server_s_log(
    port: RunningPort, caplog: pytest.LogCaptureFixture
) -> None:
    site = port.enrolled()

    async def scene() -> None:
        async with connection(port, of_site(site)) as channel:
            await channel.channel_ready()
            for number in range(60):
                call = channel.stream_unary(RELAY)()
                await asyncio.sleep(0.001 * (number % 12))  # in every state that a call can be in
                call.cancel()
        while port.guard.admission.calls_open:
            await asyncio.sleep(0.001)

    port.run(scene())
    assert port.as_site(site).status().site == site.name
    assert [record for record in caplog.records if record.name.startswith("grpc")] == []
