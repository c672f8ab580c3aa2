"""A server as a coordinator runs it: its own processes, Flower's real SuperLink, real sockets and certificates."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import grpc
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ports import Calls, SiteKeys, key_pem, refusal, to_pem
from servers import ServerProcess, eventually, moretta

from moretta.server.enrollment.nodes import flower_form
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import CONNECTION, ServerHome, running_server
from moretta.shared.core.errors import ExitCode
from moretta.shared.enrollment import parse_join_string

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess.init(tmp_path_factory.mktemp("server") / "home", port=_free_port())
    server.start()
    yield server
    server.close()


def _activate(calls: Calls, site: SiteKeys) -> int:
    """Activate a node as Flower's SuperNode does first; returns its node id."""
    request = fleet_pb2.ActivateNodeRequest(public_key=flower_form(site.node_public), heartbeat_interval=30)
    reply = calls.relayed(site.fleet_call("activate-node", request.SerializeToString()))
    assert reply.status == 200, reply.body
    return int(fleet_pb2.ActivateNodeResponse.FromString(reply.body).node_id)


def _heartbeat(calls: Calls, site: SiteKeys, node_id: int) -> int:
    request = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=30)
    return calls.relayed(site.fleet_call("send-node-heartbeat", request.SerializeToString())).status


def _health(calls: Calls, service: str = "") -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    reply = health_pb2_grpc.HealthStub(calls.channel).Check(request, timeout=10)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def _children(server: ServerProcess) -> dict[str, psutil.Process]:
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("MORETTA_RUN_MARK") == server.state["mark"]:
                for name in ("superlink", "superexec"):
                    if any(f"flower-{name}" in part for part in process.cmdline()[:5]):
                        found[name] = process
    return found


def _alive(process: psutil.Process) -> bool:
    """A child of a killed server ends as a zombie until the system's first process takes note of it."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_up_prints_where_it_listens_and_only_its_port_is_reached_from_outside(server: ServerProcess) -> None:
    listening = next(e for e in server.events if e["event"] == "listening")
    assert listening["listen"] == f"127.0.0.1:{server.port}"
    assert [e["event"] for e in server.events].index("listening") < [e["event"] for e in server.events].index("ready")
    for name, process in _children(server).items():
        open_at = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert set(open_at) <= {"127.0.0.1"}, name
    assert server.status()["healthy"]
    assert "listening on" in moretta("server", "status", "--server", server.folder)


def test_a_second_server_on_the_same_folder_or_port_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    moretta("server", "up", server.folder, code=ExitCode.HOME)
    other = ServerProcess.init(tmp_path / "other", port=server.port)
    moretta("server", "up", other.folder, code=ExitCode.HOME)
    assert server.status()["healthy"]


def test_an_enrolled_site_is_a_node_of_flower_and_its_calls_reach_the_superlink(server: ServerProcess) -> None:
    site = server.enrolled("clinic-a")
    node_id, calls = server.node_id("clinic-a"), server.as_site(site)
    assert _activate(calls, site) == node_id
    assert _heartbeat(calls, site, node_id) == 200
    pull = fleet_pb2.PullMessagesRequest(node=Node(node_id=node_id)).SerializeToString()
    assert calls.relayed(site.fleet_call("pull-messages", pull), timeout=30).status == 200  # held: there is none
    assert _site_names(server)[node_id] == "clinic-a"


def test_sites_that_enroll_at_once_all_become_nodes(server: ServerProcess) -> None:
    names = [f"at-once-{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(server.enrolled, names))
    assert len({server.node_id(name) for name in names}) == 8


def test_a_site_cannot_act_for_another_ones_node(server: ServerProcess) -> None:
    one, two = server.enrolled("cross-a"), server.enrolled("cross-b")
    calls, foreign = server.as_site(one), server.node_id("cross-b")
    server.node_id("cross-a")
    # its own key and headers, the other's node in the body: the SuperLink refuses
    assert _heartbeat(calls, one, foreign) == 401
    deactivate = fleet_pb2.DeactivateNodeRequest(node_id=foreign).SerializeToString()
    assert calls.relayed(one.fleet_call("deactivate-node", deactivate)).status == 401
    # the other's headers: the relay refuses
    with pytest.raises(grpc.RpcError) as error:
        calls.relayed(two.fleet_call("deactivate-node", deactivate))
    assert refusal(error.value) == ("PERMISSION_DENIED", "foreign-node-key")


def test_a_node_cannot_register_itself_past_enrollment(server: ServerProcess) -> None:
    site = server.enrolled("self-made")
    stranger = SiteKeys.new("stranger")
    body = fleet_pb2.RegisterNodeFleetRequest(public_key=flower_form(stranger.node_public)).SerializeToString()
    with pytest.raises(grpc.RpcError) as error:
        server.as_site(site).relayed(stranger.fleet_call("register-node", body))
    assert refusal(error.value) == ("PERMISSION_DENIED", "foreign-node-key")
    own = fleet_pb2.RegisterNodeFleetRequest(public_key=flower_form(site.node_public)).SerializeToString()
    assert server.as_site(site).relayed(site.fleet_call("register-node", own)).status >= 400


def test_a_token_under_20_concurrent_uses_has_exactly_one_winner(server: ServerProcess) -> None:
    join, barrier = server.token("contested"), Barrier(20)
    calls = [server.with_token(join) for _ in range(20)]
    for call in calls:
        call.info()

    def use(number: int) -> bool:
        barrier.wait()
        try:
            calls[number].enroll(SiteKeys.new("contested"))
        except grpc.RpcError as error:
            assert refusal(error)[1] in ("token-used", "unknown-certificate", "too-many-calls")
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(use, range(20))) == 1


def test_a_taken_name_gets_no_join_string_unless_it_is_said_explicitly(server: ServerProcess) -> None:
    old = server.enrolled("taken")
    moretta("server", "token", "--server", server.folder, "--site", "taken", code=ExitCode.ENROLLMENT)
    line = moretta("server", "token", "--server", server.folder, "--site", "taken", "--reenroll")
    new = SiteKeys.new("taken")
    new.certificate = server.with_token(parse_join_string(line)).enroll(new).certificate_der
    first = server.node_id("taken")
    assert _activate(server.as_site(new), new) == first
    with pytest.raises(grpc.RpcError) as error:
        server.as_site(old).info()
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")


def test_a_revoked_site_is_refused_at_its_next_call_and_its_node_leaves_flower(server: ServerProcess) -> None:
    site = server.enrolled("stolen")
    node_id, calls = server.node_id("stolen"), server.as_site(site)
    _activate(calls, site)
    moretta("server", "revoke", "stolen", "--server", server.folder)
    with pytest.raises(grpc.RpcError) as error:
        _heartbeat(calls, site, node_id)
    assert refusal(error.value) == ("UNAUTHENTICATED", "revoked")
    gone = {"event": "node-unregistered", "site": "stolen", "node_id": str(node_id)}
    eventually(lambda: any(gone.items() <= line.items() for line in server.audit()))
    moretta("server", "revoke", "nobody", "--server", server.folder, code=ExitCode.ENROLLMENT)


def test_a_replayed_call_is_refused_by_the_relay_though_flower_would_take_it(server: ServerProcess) -> None:
    site = server.enrolled("replayed")
    node_id, calls = server.node_id("replayed"), server.as_site(site)
    _activate(calls, site)
    request = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=30)
    call = site.fleet_call("send-node-heartbeat", request.SerializeToString())
    assert calls.relayed(call).status == 200
    with pytest.raises(grpc.RpcError) as error:
        calls.relayed(call)
    assert refusal(error.value) == ("PERMISSION_DENIED", "replayed")


def test_a_renewal_under_load_breaks_no_call(server: ServerProcess) -> None:
    site = server.enrolled("busy")
    node_id = server.node_id("busy")
    current, statuses, stop = [server.as_site(site)], [], threading.Event()
    _activate(current[0], site)

    def call_on() -> None:
        while not stop.is_set():
            statuses.append(_heartbeat(current[0], site, node_id))

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(call_on) for _ in range(3)]
        for done in range(5):
            eventually(lambda: len(statuses) >= 5 * done, 200)  # noqa: B023 - called at once
            key = ec.generate_private_key(ec.SECP256R1())
            der = current[0].renew(site, key).certificate_der
            current[0] = server.as_site(SiteKeys("busy", key, site.node_key, der))
        eventually(lambda: len(statuses) >= 25, 200)
        stop.set()
        for worker in workers:
            worker.result()
    assert set(statuses) == {200}


def test_the_python_side_of_a_study_finds_the_superlink_and_flowers_command_line_does_too(
    server: ServerProcess,
) -> None:
    running = running_server(ServerHome.open(server.folder))
    assert (running.pid, running.healthy) == (server.pid, True)
    config = (Path(running.flwr_home) / "config.toml").read_text()
    assert f"[superlink.{CONNECTION}]" in config
    assert f'address = "{running.superlink}"' in config
    assert f'root-certificates = "{running.superlink_ca}"' in config


def _site_names(server: ServerProcess) -> dict[int, str]:
    registry = SiteRegistry.open(ServerHome.open(server.folder).registry)
    try:
        return registry.node_names()
    finally:
        registry.close()


def _context(server: ServerProcess, site: SiteKeys, folder: Path) -> ssl.SSLContext:
    (folder / "key").write_bytes(key_pem(site.key))
    (folder / "cert").write_bytes(to_pem(site.certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


def test_tls_1_2_is_refused_even_with_a_good_certificate(server: ServerProcess, tmp_path: Path) -> None:
    context = _context(server, server.enrolled("modern"), tmp_path)

    def version() -> str | None:
        with socket.create_connection(("127.0.0.1", server.port)) as plain, context.wrap_socket(plain) as inside:
            return inside.version()

    assert version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        version()


def _junk(port: int, rng: random.Random, trusted: ssl.SSLContext) -> None:
    """One connection that sends rubbish: before, within and after a handshake."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.settimeout(0.3)
        kind = rng.randrange(3)
        if kind == 0:
            plain.sendall(rng.randbytes(rng.randrange(1, 4000)))
        elif kind == 1:
            plain.sendall(b"\x16\x03\x01" + rng.randbytes(rng.randrange(1, 600)))
        else:
            with suppress(OSError), trusted.wrap_socket(plain) as inside:
                inside.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * rng.randrange(2) + rng.randbytes(2000))
                inside.recv(100)
        plain.recv(100)


def test_random_bytes_and_fuzzed_protobufs_at_the_port_leave_it_well_and_its_memory_flat(
    server: ServerProcess, tmp_path: Path
) -> None:
    site, rng = server.enrolled("fuzzer"), random.Random(1)
    trusted = _context(server, site, tmp_path)
    channel, process = server.as_site(site).channel, psutil.Process(server.pid)
    paths = ["/moretta.relay.v1.Relay/Call", "/moretta.enrollment.v1.Enrollment/Enroll", "/x/y"]
    paths += ["/moretta.enrollment.v1.Enrollment/Renew", "/grpc.health.v1.Health/Check"]

    def once(_: int) -> None:
        _junk(server.port, rng, trusted)
        for path in paths:
            with suppress(grpc.RpcError):
                channel.unary_unary(path)(rng.randbytes(rng.randrange(3000)), timeout=10)

    def flood(times: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(once, range(times)))

    flood(50)  # pools and caches fill up to their size
    memory, files = process.memory_info().rss, process.num_fds()
    flood(150)
    assert process.memory_info().rss - memory < 16 << 20
    eventually(lambda: process.num_fds() <= files + 10)
    assert _health(server.as_site(site)) == "SERVING"
    assert server.stderr.stat().st_size < 10_000
    refused = [line for line in server.audit() if line["event"] == "refused" and line["caller"] == "fuzzer"]
    assert 0 < len(refused) < 50


def test_kill_9_of_the_superlink_is_reported_by_health_and_healed_with_the_same_nodes(server: ServerProcess) -> None:
    site = server.enrolled("patient")
    node_id, calls = server.node_id("patient"), server.as_site(site)
    _activate(calls, site)
    assert _health(calls) == "SERVING"
    _children(server)["superlink"].kill()
    eventually(lambda: _health(calls) == "NOT_SERVING")
    assert _health(calls, "moretta.enrollment.v1.Enrollment") == "SERVING"
    with pytest.raises(grpc.RpcError) as error:
        _heartbeat(calls, site, node_id)
    assert refusal(error.value) == ("UNAVAILABLE", "superlink-down")
    try:
        assert not server.status(code=ExitCode.UNREACHABLE)["healthy"]
    except AssertionError:  # on a busy machine the command takes longer to start than the SuperLink
        assert _health(calls) == "SERVING"
    eventually(lambda: _health(calls) == "SERVING", 200)
    assert _heartbeat(calls, site, node_id) == 200
    assert server.node_id("patient") == node_id


def test_kill_9_of_the_server_loses_nothing_and_the_superlink_goes_on_under_the_next_one(
    server: ServerProcess,
) -> None:
    site = server.enrolled("steady")
    node_id, calls = server.node_id("steady"), server.as_site(site)
    _activate(calls, site)
    before, sites, authority = _children(server), server.sites(), (server.folder / "ca" / "ca.pem").read_bytes()
    beat = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=30)
    captured = site.fleet_call("send-node-heartbeat", beat.SerializeToString())
    calls.relayed(captured)
    server.kill()
    assert moretta("server", "status", "--server", server.folder, code=ExitCode.UNREACHABLE)
    server.start()
    assert {n: p.pid for n, p in _children(server).items()} == {n: p.pid for n, p in before.items()}
    assert (server.folder / "ca" / "ca.pem").read_bytes() == authority
    after = server.sites()
    for name, record in sites.items():
        same = ("state", "node_id", "node_key", "not_after")
        assert [getattr(after[name], field) for field in same] == [getattr(record, field) for field in same]
    with pytest.raises(grpc.RpcError) as error:  # the memory of what was seen is gone, the replay is not let through
        server.as_site(site).relayed(captured)
    assert refusal(error.value) == ("UNAVAILABLE", "signed-before-start")

    def beats() -> bool:
        with suppress(grpc.RpcError):
            return _heartbeat(calls, site, node_id) == 200
        return False

    eventually(beats)  # over the connection that was there before the kill: gRPC dials again by itself


def test_sigterm_ends_every_process_and_a_restart_has_the_same_authority_sites_and_nodes(
    server: ServerProcess,
) -> None:
    sites, children = server.sites(), _children(server)
    assert server.stop() == 0
    assert not [name for name, process in children.items() if _alive(process)]
    assert server.audit()[-1]["event"] == "server-stopped"
    server.start()
    assert {n: s.node_id for n, s in server.sites().items()} == {n: s.node_id for n, s in sites.items()}


def test_a_lost_database_of_flower_is_filled_again_from_the_registry(server: ServerProcess) -> None:
    site = server.enrolled("remembered")
    before = server.node_id("remembered")
    server.stop()
    for path in (server.folder / "superlink").glob("state.db*"):
        path.unlink()
    server.start()
    eventually(lambda: server.sites()["remembered"].node_id != before)
    calls = server.as_site(site)

    def activated() -> int:
        with suppress(grpc.RpcError):
            return _activate(calls, site)
        return 0

    assert eventually(activated) == server.node_id("remembered") != before
    assert _site_names(server)[server.node_id("remembered")] == "remembered"


def test_health_reports_that_the_registry_or_the_authority_is_gone(server: ServerProcess) -> None:
    calls = server.as_site(server.enrolled("observer"))
    ca = server.folder / "ca" / "ca.key"
    ca.rename(ca.with_suffix(".away"))
    eventually(lambda: _health(calls) == "NOT_SERVING")
    assert _health(calls, "moretta.relay.v1.Relay") == "SERVING"
    assert "removed" in server.status(code=ExitCode.UNREACHABLE)["problems"]["authority"]
    ca.with_suffix(".away").rename(ca)
    eventually(lambda: _health(calls) == "SERVING")
    registry = server.folder / "registry.sqlite"
    registry.rename(registry.with_suffix(".away"))
    eventually(lambda: server.state["problems"]["registry"])
    registry.with_suffix(".away").rename(registry)
    eventually(lambda: _health(calls) == "SERVING")


def test_the_log_of_all_this_holds_and_a_changed_line_is_found(server: ServerProcess) -> None:
    assert "chain unbroken" in moretta("server", "log", "verify", "--server", server.folder)
    events = {line["event"] for line in server.audit()}
    assert {"initialised", "token-issued", "enrolled", "renewed", "revoked", "relay", "refused"} <= events
    assert {"superlink-ended", "superlink-taken-over", "node-registered", "server-stopped"} <= events
    log = server.folder / "audit.jsonl"
    original = log.read_bytes()
    log.write_bytes(original.replace(b'"site":"stolen"', b'"site":"robbed"', 1))
    moretta("server", "log", "verify", "--server", server.folder, code=ExitCode.HOME)
    log.write_bytes(original)


def test_no_secret_of_the_server_is_on_a_command_line_or_open_to_others(server: ServerProcess) -> None:
    for process in [psutil.Process(server.pid), *_children(server).values()]:
        line = " ".join(process.cmdline())
        assert (server.folder / "superlink" / "superexec.secret").read_text() not in line
    for path in server.folder.rglob("*"):
        if path.is_file() and "flwr" not in path.parts:
            assert path.stat().st_mode & 0o077 == 0, path
    assert server.folder.stat().st_mode & 0o077 == 0
