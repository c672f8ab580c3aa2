"""The connector before a real gRPC server: who may use it, what code it lets in, what it says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import ssl
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_from_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supernode.start_client_internal import _verify_fab
from mini_server import MiniServer, mini_server, run

import moretta.deploy
from moretta.client.transport import connector as connecting
from moretta.client.transport.bundle_gate import BundleGate
from moretta.client.transport.connector import Connector, LoopbackServer
from moretta.client.transport.identity import new_node_key
from moretta.client.transport.server_channel import ServerChannel
from moretta.shared.core.errors import MorettaError, RefusedError
from moretta.shared.messages.relay import read_folder
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

FOLDER = Path(moretta.deploy.__file__).parent / "fab"
INSTALLED = read_folder(FOLDER)


@dataclass
class Node:
    """Calls the connector as Flower's SuperNode does."""

    http: httpx.AsyncClient
    key: Any
    server: MiniServer
    gate: BundleGate
    connector: Connector
    ended: list[MorettaError] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)

    def headers(self, key: Any = None) -> dict[str, str]:
        key, timestamp = key or self.key, now().isoformat()
        return {
            "flwr-public-key": base64.b64encode(public_key_to_bytes(key.public_key())).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": base64.b64encode(sign_message(key, timestamp.encode())).decode(),
        }

    async def post(self, path: str, body: bytes = b"x", headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.post(path, content=body, headers=self.headers() if headers is None else headers)


@asynccontextmanager
async def node(tmp_path: Path, *, refuses: bool = False) -> AsyncIterator[Node]:
    async with mini_server() as server:
        identity = server.identity()
        channel, gate = ServerChannel(identity), BundleGate(INSTALLED)
        ended: list[MorettaError] = []
        leaving: list[str] = []

        async def before_leaving() -> None:
            leaving.append("requested")
            if refuses:
                raise RefusedError("the ledger is older than the server knows it")

        connector = Connector(
            channel, gate, identity.node_public_key, before_leaving=before_leaving, on_end=ended.append
        )
        loopback = LoopbackServer(connector.app(), tmp_path)
        tasks = [asyncio.create_task(channel.keep()), asyncio.create_task(loopback.serve())]
        context = ssl.create_default_context(cafile=str(loopback.certificate))
        key = serialization.load_ssh_private_key(identity.node_key.encode(), None)
        url = f"https://127.0.0.1:{loopback.port}"
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=20) as http:
            yield Node(http, key, server, gate, connector, ended, leaving)
        loopback.stop()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_fleet_call_of_the_own_node_is_relayed_with_its_headers(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            headers = site.headers()
            answer = await site.post("/v1/fleet/pull-messages", b"body", headers)
            assert (answer.status_code, answer.content) == (200, b"body")
            (call,) = site.server.seen
            assert call.method == "pull-messages"
            assert {
                "flwr-public-key": call.public_key,
                "flwr-signature": call.signature,
                "flwr-timestamp": call.timestamp,
            } == headers

    run(scene())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/",
        "/v1/fleet/list-nodes",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/pull-messages/x",
        "/v1/fleet/%2e%2e%2fcontrol%2flist-nodes",
        "/v2/fleet/pull-messages",
        "/",
        "/docs",
        "/health",
    ],
)
def test_every_other_path_is_refused_and_does_not_go_out(tmp_path: Path, path: str) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = await site.http.request(method, path, headers=site.headers())
                assert answer.status_code in (403, 405)
            assert not site.server.seen

    run(scene())


def _without(name: str) -> Any:
    return lambda site: {k: v for k, v in site.headers().items() if k != name}


@pytest.mark.parametrize(
    "headers",
    [
        lambda site: {},
        _without("flwr-public-key"),
        _without("flwr-signature"),
        _without("flwr-timestamp"),
        lambda site: site.headers(new_node_key()),
        lambda site: site.headers() | {"flwr-signature": "not base64"},
        lambda site: site.headers() | {"flwr-timestamp": now().isoformat()},
        lambda site: (
            site.headers(new_node_key())
            | {"flwr-public-key": base64.b64encode(public_key_to_bytes(site.key.public_key())).decode()}
        ),
    ],
)
def test_a_call_that_the_own_node_did_not_sign_is_refused_and_does_not_go_out(tmp_path: Path, headers: Any) -> None:
    """Another program on this machine can reach the connector's port, and gets nothing from it."""

    async def scene() -> None:
        async with node(tmp_path) as site:
            answer = await site.post("/v1/fleet/pull-messages", b"x", headers(site))
            assert answer.status_code == 403
            assert not site.server.seen

    run(scene())


def test_the_connector_listens_on_loopback_alone_and_its_key_is_not_on_disk(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            assert site.http.base_url.host == "127.0.0.1"
            assert not [p for p in tmp_path.rglob("*") if b"PRIVATE" in p.read_bytes()]
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient(trust_env=False) as stranger:
                    await stranger.get(str(site.http.base_url))  # a stranger does not trust its certificate

    run(scene())


CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        ((CODES.UNAVAILABLE, "superlink-down: try again"), 503),
        ((CODES.RESOURCE_EXHAUSTED, "no-room: try again later"), 503),
        ((CODES.RESOURCE_EXHAUSTED, "too-fast: slow down"), 503),
        ((CODES.RESOURCE_EXHAUSTED, "too-large: 300000000 bytes"), 413),
        ((CODES.RESOURCE_EXHAUSTED, "answer-too-large: Flower answers more"), 413),
        ((CODES.DEADLINE_EXCEEDED, "too-slow"), 504),
        ((CODES.PERMISSION_DENIED, "replayed: used before"), 403),
        ((CODES.UNAUTHENTICATED, "revoked: this site's enrollment was revoked"), 401),
        ((CODES.INTERNAL, "defect"), 502),
        ((CODES.UNIMPLEMENTED, "another version"), 502),
    ],
)
def test_what_the_server_refuses_becomes_what_the_supernode_copes_with(
    tmp_path: Path, refusal: tuple[grpc.StatusCode, str], status: int
) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            site.server.refuse = refusal
            answer = await site.post("/v1/fleet/pull-messages")
            assert answer.status_code == status
            assert [refusal[1] in str(error) for error in site.ended] == ([True] if status == 401 else [])

    run(scene())


def test_the_ledger_is_shown_before_what_was_computed_leaves_and_for_nothing_else(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            for method in ("pull-messages", "send-node-heartbeat", "get-run"):
                await site.post(f"/v1/fleet/{method}")
            assert not site.leaving
            for method in ("push-messages", "push-object"):
                assert (await site.post(f"/v1/fleet/{method}")).status_code == 200
            assert len(site.leaving) == 2

    run(scene())


def test_with_a_ledger_that_is_refused_nothing_computed_leaves_and_the_site_ends(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path, refuses=True) as site:
            for method in ("push-messages", "push-object"):
                assert (await site.post(f"/v1/fleet/{method}")).status_code == 409
            assert not site.server.seen
            assert all(isinstance(error, RefusedError) for error in site.ended)
            assert len(site.ended) == 2

    run(scene())


def test_what_the_superlink_responds_comes_through_as_it_is(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:

            async def relay(request: FleetCall, context: Any) -> FleetReply:
                return FleetReply(status=412, body=b'{"code": 2004, "detail": "Failed to activate SuperNode."}')

            site.server.relay = relay
            answer = await site.post("/v1/fleet/activate-node")
            assert answer.status_code == 412
            assert answer.json()["code"] == 2004

    run(scene())


@pytest.mark.parametrize(("status", "online"), [(200, True), (412, False)])
def test_a_site_is_online_once_the_superlink_took_its_node_and_until_the_next_start(
    tmp_path: Path, status: int, online: bool
) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:

            async def relay(request: FleetCall, context: Any) -> FleetReply:
                return FleetReply(status=status, body=b"")

            site.server.relay = relay
            assert not site.connector.traffic.online
            await site.post("/v1/fleet/activate-node")
            assert site.connector.traffic.online is online
            site.connector.note_start()
            assert not site.connector.traffic.online
            assert (site.connector.traffic.calls, site.connector.traffic.bytes_out) == (1, 1)

    run(scene())


def test_without_a_connection_a_heartbeat_gets_a_response_before_flower_gives_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_HEARTBEAT_SECONDS", 0.1)

    async def scene() -> None:
        async with node(tmp_path) as site:
            await site.server.stop()
            for _ in range(2):
                answer = await site.post("/v1/fleet/send-node-heartbeat")
                assert answer.status_code in (503, 504)

    run(scene())


def test_a_body_longer_than_a_message_is_refused_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "MAX_MESSAGE_BYTES", 1000)

    async def scene() -> None:
        async with node(tmp_path) as site:
            assert (await site.post("/v1/fleet/push-object", bytes(1001))).status_code == 413
            assert (await site.post("/v1/fleet/push-object", bytes(1000))).status_code == 200
            assert len(site.server.seen) == 1

    run(scene())


BUILT = build_fab_from_disk(FOLDER)


def tampered() -> bytes:
    """Moretta's bundle with one line more."""
    with zipfile.ZipFile(io.BytesIO(BUILT)) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    code = files["moretta_fab/client_app.py"] + b"\nprint('more')\n"
    line = f"moretta_fab/client_app.py,{hashlib.sha256(code).hexdigest()},{len(code) * 8}"
    listed = [line if entry.startswith("moretta_fab/client_app") else entry for entry in _lines(files)]
    files |= {"moretta_fab/client_app.py": code, ".info/CONTENT": "\n".join(listed).encode()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return target.getvalue()


def _lines(files: dict[str, bytes]) -> list[str]:
    return files[".info/CONTENT"].decode().splitlines()


def serving(archive: bytes, run_said: dict[str, Any] | None = None, fab_said: dict[str, Any] | None = None) -> Any:
    """A SuperLink that hands out this bundle."""
    own = hashlib.sha256(archive).hexdigest()
    described = {"fab_id": INSTALLED.app, "fab_version": INSTALLED.version, "primary_task_type": "flwr-serverapp"}

    async def relay(request: FleetCall, context: Any) -> FleetReply:
        if request.method == "get-run":
            reply: Any = GetRunResponse(run=Run(**{"run_id": 7, "fab_hash": own, **described, **(run_said or {})}))
        else:
            reply = GetFabResponse(fab=Fab(**{"hash_str": own, "content": archive, **(fab_said or {})}))
        return FleetReply(status=200, body=reply.SerializeToString())

    return relay


async def fetched(site: Node) -> Any:
    """The code that a site's SuperNode gets, requested as the SuperNode does."""
    answer = await site.post("/v1/fleet/get-run", GetRunRequest(run_id=7).SerializeToString())
    said = GetRunResponse.FromString(answer.content).run
    requested = GetFabRequest(hash_str=said.fab_hash, run_id=7).SerializeToString()
    return GetFabResponse.FromString((await site.post("/v1/fleet/get-fab", requested)).content).fab


def accepted(site: Node, fab: Any) -> bool:
    """Flower's own check, as its SuperNode makes it when it was started with the gate's signer as trusted."""
    trusted = yaml.safe_load(site.gate.trusted_entities)
    taken = fab_from_proto(fab)
    return bool(taken.verifications.get("valid_license", "")) and _verify_fab(taken, trusted)


def test_the_installed_bundle_passes_and_flower_takes_the_gate_s_signature(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            site.server.relay = serving(BUILT)
            fab = await fetched(site)
            assert fab.content == BUILT
            assert accepted(site, fab)

    run(scene())


@pytest.mark.parametrize(
    "relay",
    [
        pytest.param(serving(tampered()), id="tampered"),
        pytest.param(serving(b""), id="empty"),
        pytest.param(serving(BUILT, {"fab_id": "evil/app"}), id="another app"),
        pytest.param(serving(BUILT, {"fab_version": "../../evil"}), id="a version that is a path"),
        pytest.param(serving(BUILT, {"primary_task_type": "flwr-agentapp"}), id="an agent"),
        pytest.param(serving(BUILT, {"fab_hash": "0" * 64}), id="requested under another hash"),
        pytest.param(serving(BUILT, fab_said={"hash_str": "0" * 64}), id="answered under another hash"),
        pytest.param(
            serving(tampered(), fab_said={"verifications": {"valid_license": "1", "moretta-connector": "{}"}}),
            id="with a signature of its own",
        ),
    ],
)
def test_a_bundle_that_is_not_the_installed_one_does_not_reach_the_supernode(tmp_path: Path, relay: Any) -> None:
    async def scene() -> None:
        async with node(tmp_path) as site:
            site.server.relay = relay
            fab = await fetched(site)
            assert fab.content == b""
            assert not accepted(site, fab)

    run(scene())


def test_a_bundle_that_goes_round_the_gate_is_refused_by_the_supernode_itself() -> None:
    gate, other = BundleGate(INSTALLED), BundleGate(INSTALLED)
    request = GetFabRequest(hash_str=hashlib.sha256(BUILT).hexdigest(), run_id=7).SerializeToString()
    reply = GetFabResponse(fab=Fab(hash_str=hashlib.sha256(BUILT).hexdigest(), content=BUILT)).SerializeToString()
    signed = fab_from_proto(GetFabResponse.FromString(other.inspect("get-fab", request, reply)).fab)
    trusted = yaml.safe_load(gate.trusted_entities)
    assert not _verify_fab(signed, trusted)
    own = fab_from_proto(GetFabResponse.FromString(gate.inspect("get-fab", request, reply)).fab)
    assert _verify_fab(own, trusted)
    own.content = tampered()
    assert not _verify_fab(own, trusted)


def test_replies_that_cannot_be_read_are_not_passed_on() -> None:
    gate = BundleGate(INSTALLED)
    assert gate.inspect("get-run", b"", b"\xff\xff") == b""
    assert gate.inspect("get-fab", b"", b"\xff\xff") == b""
    body = PullMessagesRequest().SerializeToString()
    assert gate.inspect("pull-messages", body, b"\xff\xff") == b"\xff\xff"  # not code: the SuperNode reads it itself
