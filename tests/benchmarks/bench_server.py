"""Costs of the guarded port: time to enroll, overhead of a relayed call, throughput of a long body, memory."""

from __future__ import annotations

import datetime as dt
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS / "e2e", TESTS / "server"):
    sys.path.insert(0, str(folder))

import httpx  # noqa: E402
import psutil  # noqa: E402
from flwr.proto import fleet_pb2  # noqa: E402
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest  # noqa: E402
from flwr.proto.message_pb2 import PushObjectRequest  # noqa: E402
from flwr.proto.node_pb2 import Node  # noqa: E402
from ports import Calls, SiteKeys  # noqa: E402
from servers import ServerProcess  # noqa: E402

from moretta.server.enrollment.nodes import flower_form  # noqa: E402
from moretta.server.home import ServerHome, running_server  # noqa: E402
from moretta.server.port.superlink import SuperLinkAddress  # noqa: E402

BODY_MB = 100


def timed(times: int, work: Callable[[], object]) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1000)
    return found


def reported(name: str, milliseconds: list[float]) -> None:
    median, worst = statistics.median(milliseconds), sorted(milliseconds)[int(len(milliseconds) * 0.95)]
    print(f"{name:<52} median {median:8.2f} ms   95 % {worst:8.2f} ms")


def direct_post(client: httpx.Client, site: SiteKeys, method: str, body: bytes) -> httpx.Response:
    """The same call past the relay, as nobody outside this machine could make it."""
    call = site.fleet_call(method, body)
    headers = {"flwr-public-key": call.public_key, "flwr-signature": call.signature, "flwr-timestamp": call.timestamp}
    headers |= {"content-type": "application/protobuf", "accept": "application/protobuf"}
    return client.post(f"/v1/fleet/{method}", content=body, headers=headers)


def main() -> None:
    """Run on a server of its own, which is gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        limits = "calls_per_second = 100000\nburst_calls = 100000"
        server = ServerProcess.init(Path(scratch) / "home", port=port, limits=limits)
        start = time.perf_counter()
        server.start(ready=False)
        server.wait_for("listening")
        listening = time.perf_counter() - start
        server.wait_for("ready")
        print(f"up: listening after {listening:.2f} s, ready after {time.perf_counter() - start:.2f} s")
        try:
            measure(server)
        finally:
            server.close()


def measure(server: ServerProcess) -> None:
    """Everything, on a server that is ready."""
    process = psutil.Process(server.pid)
    print(f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, memory at start {process.memory_info().rss / 1e6:.0f} MB")
    numbers = iter(range(1000))
    reported("enroll: token, handshake, certificate", timed(20, lambda: server.enrolled(f"site-{next(numbers)}")))
    site = server.enrolled("bench")
    node_id, calls = server.node_id("bench"), server.as_site(site)
    activate = fleet_pb2.ActivateNodeRequest(public_key=flower_form(site.node_public), heartbeat_interval=30)
    calls.relayed(site.fleet_call("activate-node", activate.SerializeToString()))
    reported("status: one authorised call", timed(200, calls.status))
    running = running_server(ServerHome.open(server.folder))
    address = SuperLinkAddress(int(running.superlink.rpartition(":")[2]), Path(running.superlink_ca))
    with httpx.Client(base_url=address.url, verify=address.tls(), timeout=120) as direct:
        measure_calls(calls, direct, site, node_id, process)
        measure_bodies(calls, direct, site, node_id, process)
    time.sleep(6.0)
    print(f"memory six seconds later {process.memory_info().rss / 1e6:.0f} MB")


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of the server's process; unlike elapsed time they hardly depend on the machine's other work."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure_calls(calls: Calls, direct: httpx.Client, site: SiteKeys, node_id: int, process: psutil.Process) -> None:
    """Small ones."""
    beat = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=30).SerializeToString()

    def relayed() -> None:
        assert calls.relayed(site.fleet_call("send-node-heartbeat", beat)).status == 200

    def straight() -> None:
        assert direct_post(direct, site, "send-node-heartbeat", beat).status_code == 200

    for _ in range(2):
        reported("heartbeat straight to the SuperLink", timed(200, straight))
        reported("heartbeat through the relay", timed(200, relayed))
    before = cpu_seconds(process)
    time.sleep(10.0)
    idle = (cpu_seconds(process) - before) / 10.0
    print(f"idle, the server's process computes {idle * 1000:.0f} ms a second")
    start, before = time.perf_counter(), cpu_seconds(process)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: relayed(), range(800)))
    seconds = time.perf_counter() - start
    busy = cpu_seconds(process) - before - idle * seconds
    print(f"heartbeats through the relay, 8 at once: {800 / seconds:.0f} a second")
    print(f"the server's process computes {busy / 0.8:.2f} ms more for each of them")


def measure_bodies(calls: Calls, direct: httpx.Client, site: SiteKeys, node_id: int, process: psutil.Process) -> None:
    """Long ones, to a SuperLink that reads and refuses them."""
    content = bytes(1 << 10) * (BODY_MB << 10)
    body = PushObjectRequest(node=Node(node_id=node_id), object_id="0" * 64, object_content=content).SerializeToString()
    size = len(body) / 1e6
    for name, work in (
        ("straight", lambda: direct_post(direct, site, "push-object", body)),
        ("relayed", lambda: calls.relayed(site.fleet_call("push-object", body), timeout=120)),
    ):
        before = cpu_seconds(process)
        milliseconds = statistics.median(timed(5, work))
        print(f"the server's process computes {(cpu_seconds(process) - before) / 5:.2f} s for each of these:")
        print(f"{size:.0f} MB {name}: {milliseconds / 1000:.2f} s, {size / milliseconds * 1000:.0f} MB/s")
    print(f"memory after {BODY_MB} MB bodies {process.memory_info().rss / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
