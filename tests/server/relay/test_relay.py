from __future__ import annotations

import base64
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageBytes
from flwr.proto.message_pb2 import Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import MIB, Echo, RunningPort, SiteKeys, echo_superlink, refusal
from starlette.responses import Response

from moretta.server.audit_log import verify_log
from moretta.server.enrollment.nodes import header_form
from moretta.server.home import Limits
from moretta.server.port import guard
from moretta.server.port.limits import Admission
from moretta.server.port.refusals import Refusal
from moretta.server.port.relay import _P384_ORDER, HELD_SECONDS, PushedReplies
from moretta.shared.messages.relay import FLEET_METHODS
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply


def pushed_reply(node: int, source: int, kind: str = "train.voice") -> bytes:
    """As a SuperNode announces a reply."""
    request = PushMessagesRequest(node=Node(node_id=node))
    request.messages_list.add().metadata.MergeFrom(Metadata(src_node_id=source, message_type=kind))
    request.message_object_trees.add().object_id = "0" * 64
    return request.SerializeToString()


def pushed_part(content: bytes, session: str = "s") -> bytes:
    """As it sends a part of one."""
    return PushObjectRequest(
        node=Node(node_id=7), run_id=1, object_id="0" * 64, object_content=content, session_id=session
    ).SerializeToString()


PUSHED = {"push-messages": pushed_reply(7, 7), "push-object": pushed_part(b"part")}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    with echo_superlink(tmp_path_factory.mktemp("echo")) as echo:
        yield echo


@pytest.fixture
def port(tmp_path: Path, echo: Echo) -> Iterator[RunningPort]:
    echo.calls.clear()
    echo.response = lambda path, body: Response(body)
    port = RunningPort(tmp_path, echo)
    yield port
    port.close()


def _refused(port: RunningPort, site: SiteKeys, call: FleetCall, echo: Echo, **options: int) -> tuple[str, str]:
    """Makes a call that must be refused, and must not reach the SuperLink."""
    before = len(echo.calls)
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).relayed(call, **options)
    assert len(echo.calls) == before
    return refusal(error.value)


@pytest.mark.parametrize("method", sorted(FLEET_METHODS))
def test_each_of_the_twelve_fleet_calls_goes_on_with_its_headers_and_comes_back(
    port: RunningPort, echo: Echo, method: str
) -> None:
    echo.response = lambda path, body: Response(b"answer", status_code=418)
    site = port.enrolled()
    sent = PUSHED.get(method, b"\x00body\xff")
    call = site.fleet_call(method, sent)
    reply = port.as_site(site).relayed(call)
    assert (reply.status, reply.body) == (418, b"answer")
    ((path, body, headers),) = echo.calls
    assert (path, body) == (f"/v1/fleet/{method}", sent)
    assert headers["flwr-public-key"] == call.public_key
    assert headers["flwr-signature"] == call.signature
    assert headers["flwr-timestamp"] == call.timestamp
    assert headers["content-type"] == "application/protobuf"


@pytest.mark.parametrize(
    "method",
    [
        *("", "list-nodes", "../control/list-nodes", "pull-messages/../../control/start-run", "PULL-MESSAGES"),
        *("pull-messages ", "/v1/control/register-node", "pull-messages?x", "%2e%2e/control/list-nodes"),
        "../runtime/acquire-task",
    ],
)
def test_no_other_path_than_the_twelve_goes_on(port: RunningPort, echo: Echo, method: str) -> None:
    site = port.enrolled()
    assert _refused(port, site, site.fleet_call(method), echo) == ("PERMISSION_DENIED", "not-fleet")


def test_flowers_control_and_runtime_services_are_not_there(port: RunningPort) -> None:
    channel = port.as_site(port.enrolled()).channel
    for path in ("/flwr.proto.Control/ListNodes", "/flwr.proto.Fleet/PullMessages", "/moretta.relay.v1.Relay/Other"):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(path)(b"", timeout=5)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("header", ["public_key", "signature", "timestamp"])
def test_a_call_without_a_header_is_refused(port: RunningPort, echo: Echo, header: str) -> None:
    site = port.enrolled()
    assert _refused(port, site, site.fleet_call(**{header: ""}), echo) == ("PERMISSION_DENIED", "no-headers")


def test_a_replayed_call_is_refused_whatever_it_is_used_for(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    call = site.fleet_call()
    port.as_site(site).relayed(call)
    assert _refused(port, site, call, echo) == ("PERMISSION_DENIED", "replayed")
    other = FleetCall(method="deactivate-node", public_key=call.public_key, signature=call.signature)
    other.timestamp = call.timestamp
    assert _refused(port, site, other, echo) == ("PERMISSION_DENIED", "replayed")


def test_a_signature_turned_into_its_twin_is_a_replay(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    call = site.fleet_call()
    port.as_site(site).relayed(call)
    r, s = decode_dss_signature(base64.b64decode(call.signature))
    call.signature = base64.b64encode(encode_dss_signature(r, _P384_ORDER - s)).decode()
    assert _refused(port, site, call, echo) == ("PERMISSION_DENIED", "replayed")


def test_a_timestamp_in_another_spelling_is_refused(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    call = site.fleet_call()
    for spelling in (call.timestamp.replace("T", " "), call.timestamp.replace("+00:00", "Z"), call.timestamp + " "):
        other = site.fleet_call(timestamp=spelling)
        assert _refused(port, site, other, echo) == ("INVALID_ARGUMENT", "bad-timestamp")


def test_20_concurrent_uses_of_one_signature_have_exactly_one_winner(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    call, calls = site.fleet_call(), port.as_site(site)

    def use(_: int) -> str:
        try:
            calls.relayed(call)
        except grpc.RpcError as error:
            return refusal(error)[1]
        return "passed"

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(use, range(20))) == ["passed", *["replayed"] * 19]
    assert len(echo.calls) == 1


@pytest.mark.parametrize(("seconds", "passes"), [(-310, False), (-290, True), (4, True), (6, False), (3600, False)])
def test_old_and_future_dated_calls_are_refused(port: RunningPort, echo: Echo, seconds: float, passes: bool) -> None:
    site = port.enrolled()
    call = site.fleet_call(at=port.clock.now + seconds)
    if passes:
        assert port.as_site(site).relayed(call).status == 200
    else:
        assert _refused(port, site, call, echo) == ("PERMISSION_DENIED", "wrong-time")


def test_another_sites_node_key_is_refused(port: RunningPort, echo: Echo) -> None:
    one, two = port.enrolled("one"), port.enrolled("two")
    assert _refused(port, one, two.fleet_call(), echo) == ("PERMISSION_DENIED", "foreign-node-key")
    borrowed = one.fleet_call(public_key=header_form(two.node_public))
    assert _refused(port, one, borrowed, echo) == ("PERMISSION_DENIED", "foreign-node-key")


def test_a_revoked_site_and_a_joining_one_relay_nothing(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    calls.relayed(site.fleet_call())
    port.office.registry.end_site("clinic-a", "revoked")
    with pytest.raises(grpc.RpcError) as error:
        calls.relayed(site.fleet_call())
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    with pytest.raises(grpc.RpcError) as error:
        port.with_token(port.office.join("new")).relayed(site.fleet_call())
    assert refusal(error.value) == ("UNAUTHENTICATED", "not-enrolled")
    assert len(echo.calls) == 1


def test_every_relayed_call_is_one_line_of_the_log_written_before_it_goes_on(
    port: RunningPort, echo: Echo, tmp_path: Path
) -> None:
    site = port.enrolled()
    lines: list[int] = []

    def response(path: str, body: bytes) -> Response:
        lines.append((tmp_path / "audit.jsonl").read_text().count('"event":"relay"'))
        return Response(body)

    echo.response = response
    calls = port.as_site(site)
    for size in (0, 10, 300_000):
        calls.relayed(site.fleet_call("get-fab", bytes(size)))
    assert lines == [1, 2, 3]
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    relayed = [(r["site"], r["method"], r["bytes"]) for r in records if r["event"] == "relay"]
    assert relayed == [("clinic-a", "get-fab", size) for size in (0, 10, 300_000)]
    verify_log(tmp_path / "audit.jsonl")
    port.relay.keep_counts(port.relay.take_counts())
    record = port.office.registry.sites()[0]
    assert (record.calls, record.bytes_from, record.bytes_to) == (3, 300_010, 300_010)
    assert calls.status().last_call == int(port.clock.now)


def test_a_body_of_100_mb_passes_both_ways(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    body = bytes(1 << 10) * (100 << 10)
    reply = port.as_site(site).relayed(site.fleet_call("get-fab", body), timeout=120)
    assert reply.body == body
    assert port.guard.admission.bytes_in_flight == 0


def _long_bytes() -> list[int]:
    held = {id(o): len(o) for owner in gc.get_objects() for o in gc.get_referents(owner) if isinstance(o, bytes)}
    return [size for size in held.values() if size > 10 * MIB]


def test_nothing_holds_a_long_body_after_its_call(port: RunningPort, echo: Echo) -> None:
    echo.response = lambda path, body: Response(b"")
    site = port.enrolled()
    calls = port.as_site(site)
    gc.collect()
    gc.disable()  # what waits to be found by it is held, too
    try:
        calls.relayed(site.fleet_call("get-fab", bytes(20 * MIB)))
        end = time.monotonic() + 5
        while _long_bytes() and time.monotonic() < end:
            time.sleep(0.05)
        assert _long_bytes() == []
    finally:
        gc.enable()


def test_who_opens_a_call_and_sends_nothing_is_ended_and_takes_no_place_for_long(
    port: RunningPort, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_MOST_READ_SECONDS", 0.3)
    site = port.enrolled()
    calls, never = port.as_site(site), threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield b""

    for _ in range(port.limits.site_calls_in_flight + 2):
        waiting = calls.channel.stream_unary("/moretta.relay.v1.Relay/Call").future(nothing(), timeout=20)
        error = waiting.exception()
        assert isinstance(error, grpc.RpcError)
        assert refusal(error) == ("DEADLINE_EXCEEDED", "too-slow")
    never.set()
    assert calls.relayed(site.fleet_call(at=port.clock())).status == 200  # the port's clock stands still meanwhile


def test_a_body_over_the_limit_is_refused_by_its_announcement_and_by_its_size(tmp_path: Path, echo: Echo) -> None:
    port = RunningPort(tmp_path, echo, limits=Limits(max_call_bytes=MIB))
    site = port.enrolled()
    long = site.fleet_call(body=bytes(MIB + 1))
    assert _refused(port, site, long, echo) == ("RESOURCE_EXHAUSTED", "too-large")
    lied = site.fleet_call(body=bytes(MIB // 2))
    assert _refused(port, site, lied, echo, declared=10) == ("RESOURCE_EXHAUSTED", "too-large")
    too_long_for_grpc = site.fleet_call(body=bytes(2 * MIB))
    assert _refused(port, site, too_long_for_grpc, echo, declared=10)[0] == "RESOURCE_EXHAUSTED"
    assert port.as_site(site).relayed(site.fleet_call(body=bytes(MIB))).status == 200
    port.close()


def test_a_response_over_the_limit_is_not_passed(tmp_path: Path, echo: Echo) -> None:
    echo.response = lambda path, body: Response(bytes(MIB + 1))
    port = RunningPort(tmp_path, echo, limits=Limits(max_call_bytes=MIB))
    site = port.enrolled()
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).relayed(site.fleet_call())
    assert refusal(error.value) == ("RESOURCE_EXHAUSTED", "response-too-large")
    port.close()


def test_a_site_that_calls_too_fast_is_slowed_down_then_refused_and_others_are_not(tmp_path: Path, echo: Echo) -> None:
    limits = Limits(calls_per_second=5, burst_calls=3, patience_seconds=0.5)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    admission = Admission(limits, monotonic=lambda: 0.0, sleep=sleep)  # all calls come at once
    port = RunningPort(tmp_path, echo, limits=limits, admission=admission)
    fast, calm = port.enrolled("fast"), port.enrolled("calm")
    calls = port.as_site(fast)

    def hurry(_: int) -> str:
        try:
            calls.relayed(fast.fleet_call())
        except grpc.RpcError as error:
            return "/".join(refusal(error))
        return "passed"

    with ThreadPoolExecutor(12) as pool:
        outcomes = sorted(pool.map(hurry, range(12)))
    assert outcomes == ["RESOURCE_EXHAUSTED/too-fast"] * 7 + ["passed"] * 5
    assert sorted(waits) == pytest.approx([0.2, 0.4])
    assert port.as_site(calm).relayed(calm.fleet_call()).status == 200
    port.close()


def test_large_bodies_wait_for_room_and_heartbeats_do_not_wait_for_them(tmp_path: Path, echo: Echo) -> None:
    limits = Limits(max_call_bytes=MIB, site_bytes_in_flight=MIB, bytes_in_flight=MIB, patience_seconds=20)
    port = RunningPort(tmp_path, echo, limits=limits)
    site = port.enrolled()
    go_on, most = threading.Event(), [0]

    def response(path: str, body: bytes) -> Response:
        most[0] = max(most[0], port.guard.admission.bytes_in_flight)
        if body:
            go_on.wait(20)
        return Response(b"")

    echo.response = response
    calls = port.as_site(site)
    with ThreadPoolExecutor(4) as pool:
        pushes = [pool.submit(calls.relayed, site.fleet_call("get-fab", bytes(MIB))) for _ in range(3)]
        while not any(path.endswith("get-fab") for path, _, _ in echo.calls[-1:]):
            time.sleep(0.01)
        assert calls.relayed(site.fleet_call("send-node-heartbeat"), timeout=5).status == 200
        assert not any(push.done() for push in pushes)
        go_on.set()
        assert [push.result().status for push in pushes] == [200] * 3
    assert most == [MIB]
    port.close()


def test_a_superlink_that_is_away_makes_calls_unavailable_and_not_lost_for_good(
    tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with echo_superlink(tmp_path) as short_lived:
        port = RunningPort(tmp_path, short_lived)
    site = port.enrolled()
    with pytest.raises(grpc.RpcError) as error:
        port.as_site(site).relayed(site.fleet_call())
    assert refusal(error.value) == ("UNAVAILABLE", "superlink-down")
    assert port.as_site(site).status().site == "clinic-a"
    port.close()


def test_a_registry_that_is_away_lets_nobody_in(port: RunningPort, tmp_path: Path, echo: Echo) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    calls.status()
    port.office.registry.close()
    for path in tmp_path.glob("registry.sqlite*"):
        path.unlink()
    (tmp_path / "registry.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(grpc.RpcError) as error:
        calls.relayed(site.fleet_call())
    assert refusal(error.value) == ("UNAVAILABLE", "registry-down")
    assert echo.calls == []


_calls = st.builds(lambda method, body: FleetCall(method=method, body=body), st.text(), st.binary())


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=2000) | _calls.map(FleetCall.SerializeToString))
def test_fuzzed_messages_are_refused_and_the_port_goes_on(
    fuzzed: tuple[RunningPort, SiteKeys, Echo], data: bytes
) -> None:
    port, site, echo = fuzzed
    channel = port.as_site(site).channel
    for path in ("/moretta.relay.v1.Relay/Call", "/moretta.enrollment.v1.Enrollment/Renew"):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(path)(data, timeout=10)
        assert error.value.code().name in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")
    assert echo.calls == []


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, echo: Echo) -> Iterator[tuple[RunningPort, SiteKeys, Echo]]:
    echo.calls.clear()
    port = RunningPort(tmp_path_factory.mktemp("fuzz"), echo, limits=Limits(calls_per_second=10_000))
    yield port, port.enrolled(), echo
    port.close()


def test_a_reply_in_another_node_s_name_does_not_go_on(port: RunningPort, echo: Echo) -> None:
    """Flower's SuperLink checks who calls, and not whose name a reply bears."""
    site = port.enrolled()
    found = _refused(port, site, site.fleet_call("push-messages", pushed_reply(7, 8)), echo)
    assert found == ("PERMISSION_DENIED", "foreign-reply")


def test_one_reply_at_a_time_and_of_no_more_parts_than_one_can_have(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    two = PushMessagesRequest.FromString(pushed_reply(7, 7))
    two.messages_list.add().metadata.src_node_id = 8
    many = PushMessagesRequest.FromString(pushed_reply(7, 7))
    many.message_object_trees[0].children.extend(ObjectTree(object_id="0") for _ in range(20_001))
    for body, why in (
        (two.SerializeToString(), "bad-reply"),
        (many.SerializeToString(), "reply-too-large"),
        (b"\xff", "bad-reply"),
        (b"", "bad-reply"),
        (bytes(5 * MIB), "reply-too-large"),
    ):
        assert _refused(port, site, site.fleet_call("push-messages", body), echo)[1] == why


def test_a_greeting_of_more_bytes_than_one_can_have_is_not_stored(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    calls = port.as_site(site)
    echo.response = lambda path, body: Response(PushMessagesResponse(session_id="s").SerializeToString())
    calls.relayed(site.fleet_call("push-messages", pushed_reply(7, 7, "query.hello")))
    calls.relayed(site.fleet_call("push-object", pushed_part(bytes(MIB))))
    for _ in range(2):
        found = _refused(port, site, site.fleet_call("push-object", pushed_part(bytes(MIB))), echo)
        assert found == ("RESOURCE_EXHAUSTED", "reply-too-large")
    calls.relayed(site.fleet_call("push-messages", pushed_reply(7, 7)))  # an update may have them
    calls.relayed(site.fleet_call("push-object", pushed_part(bytes(3 * MIB))))


def test_no_reply_is_without_a_limit_because_its_beginning_was_forgotten() -> None:
    replies = PushedReplies()
    for number in range(9000):  # more than are kept count of
        replies.pushed(PushMessagesResponse(session_id=str(number)).SerializeToString(), 1)
    part, left = pushed_part(bytes(64 * MIB)), 64
    with pytest.raises(Refusal, match="more bytes"):
        while left:
            replies.check("push-object", part)
            left -= 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["push-messages", "push-object"]), st.binary(max_size=200))
def test_a_push_of_any_bytes_is_let_through_or_refused(method: str, body: bytes) -> None:
    try:
        PushedReplies().check(method, body)
    except Refusal as refusal:
        assert refusal.reason in ("bad-reply", "foreign-reply")


def _pulling(port: RunningPort, site: SiteKeys) -> Future[FleetReply]:
    pool = ThreadPoolExecutor(1)
    pull = pool.submit(port.as_site(site).relayed, site.fleet_call())
    pool.shutdown(wait=False)
    return pull


def _until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def _responding(echo: Echo, waiting: list[bytes]) -> list[bytes]:
    """Have the SuperLink respond with what waits at that moment; returns what it has responded so far."""
    given: list[bytes] = []

    def respond(path: str, body: bytes) -> Response:
        del path, body
        given.append(waiting[0])
        return Response(given[-1])

    echo.response = respond
    return given


MESSAGE = PullMessagesResponse(messages_list=[MessageBytes(metadata=Metadata(message_type="query"))])


def test_a_pull_that_finds_nothing_is_held_until_messages_are_sent(port: RunningPort, echo: Echo) -> None:
    """Flower's SuperNode would otherwise look every three seconds."""
    port.may_hold, site = True, port.enrolled()
    waiting = [b""]
    given = _responding(echo, waiting)
    pull = _pulling(port, site)
    _until(lambda: given)
    port.run(port.sent.look())  # nothing was touched
    (port.folder / "messages.sent").touch()
    port.run(port.sent.look())  # sent, but to another site
    _until(lambda: len(given) == 2)
    assert not pull.done()
    waiting[0] = MESSAGE.SerializeToString()
    os.utime(port.folder / "messages.sent", ns=(1, 1))
    port.run(port.sent.look())
    assert pull.result(10).body == waiting[0]
    assert len(echo.calls) == 3
    assert [headers["flwr-signature"] for _, _, headers in echo.calls] == [echo.calls[0][2]["flwr-signature"]] * 3


def test_a_pull_of_a_connection_that_was_lost_takes_no_message_from_the_next(port: RunningPort, echo: Echo) -> None:
    port.may_hold, site = True, port.enrolled()
    waiting = [b""]
    given = _responding(echo, waiting)
    old = _pulling(port, site)
    _until(lambda: given)
    port.clock.now += 1
    new = _pulling(port, site)
    _until(lambda: len(given) == 2)
    waiting[0] = MESSAGE.SerializeToString()
    port.run(_woken(port))
    assert (old.result(10).body, new.result(10).body) == (b"", MESSAGE.SerializeToString())
    assert len(echo.calls) == 3


def test_a_site_that_is_revoked_while_its_pull_is_held_gets_no_message(port: RunningPort, echo: Echo) -> None:
    port.may_hold, site = True, port.enrolled()
    echo.response = lambda path, body: Response(b"")
    pull = _pulling(port, site)
    _until(lambda: echo.calls)
    port.office.registry.end_site(site.name, "revoked")
    port.run(_woken(port))
    with pytest.raises(grpc.RpcError) as error:
        pull.result(10)
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    assert len(echo.calls) == 1


def test_no_pull_is_held_while_many_calls_are_open(port: RunningPort, echo: Echo) -> None:
    site = port.enrolled()
    echo.response = lambda path, body: Response(b"")
    assert port.as_site(site).relayed(site.fleet_call()).body == b""
    assert len(echo.calls) == 1


def test_a_pull_with_a_long_body_is_not_held_since_nothing_bounds_the_memory_of_all_of_them(
    port: RunningPort, echo: Echo
) -> None:
    port.may_hold, site = True, port.enrolled()
    echo.response = lambda path, body: Response(b"")
    start = time.monotonic()
    assert port.as_site(site).relayed(site.fleet_call(body=bytes(MIB))).body == b""
    assert time.monotonic() - start < HELD_SECONDS


async def _woken(port: RunningPort) -> None:
    port.sent.wake()
