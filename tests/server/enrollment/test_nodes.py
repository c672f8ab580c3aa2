from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto import control_pb2 as control
from flwr.proto.node_pb2 import NodeInfo
from offices import Office, new_node_key
from ports import echo_superlink
from starlette.responses import Response

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.nodes import NodeKeeper, flower_form
from moretta.server.port.refusals import Refusal
from moretta.server.port.superlink import SuperLinkAddress, SuperLinkClient


class Flower:
    """Flower's Control API as it was seen to behave: no key is taken twice, not even after it was unregistered."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, NodeInfo] = {}
        self.changes: list[str] = []
        self.refuses = False

    def __call__(self, path: str, body: bytes) -> Response:
        if self.refuses:
            return Response(json.dumps({"code": 1, "message": "not today"}), status_code=500)
        match path.removeprefix("/v1/control/"):
            case "list-nodes":
                return _reply(control.ListNodesResponse(nodes_info=self.nodes.values()))
            case "register-node":
                request = control.RegisterNodeRequest.FromString(body)
                if request.public_key in self.nodes:
                    return Response(json.dumps({"code": 23}), status_code=412)
                return _reply(control.RegisterNodeResponse(node_id=self.add(request.public_key, request.name)))
            case _:
                gone = control.UnregisterNodeRequest.FromString(body).node_id
                node = next(n for n in self.nodes.values() if n.node_id == gone)
                node.status = "unregistered"
                self.changes.append(f"-{node.name}")
                return _reply(control.UnregisterNodeResponse())

    def add(self, public_key: bytes, name: str) -> int:
        node_id = 2**63 + len(self.nodes)
        self.nodes[public_key] = NodeInfo(node_id=node_id, status="registered", public_key=public_key, name=name)
        self.changes.append(f"+{name}")
        return node_id


def _reply(message: object) -> Response:
    return Response(message.SerializeToString(), media_type="application/protobuf")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def flower_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SuperLinkAddress, list[Flower]]]:
    current = [Flower()]
    with echo_superlink(tmp_path_factory.mktemp("flower")) as echo:
        echo.response = lambda path, body: current[0](path, body)  # noqa: PLW0108 - another one for each test
        yield echo.address, current


class Keeper:
    def __init__(self, office: Office, folder: Path, address: SuperLinkAddress, flower: Flower) -> None:
        self.office, self._address, self.flower = office, address, flower
        self._audit = AuditLog(folder / "audit.jsonl", office.clock)

    def reconcile(self) -> list[str]:
        async def once() -> list[str]:
            async with SuperLinkClient(self._address, max_response_bytes=1 << 20) as client:
                return await NodeKeeper(client, self.office.registry, self._audit).reconcile()

        return asyncio.run(once())

    def changes(self) -> list[str]:
        """Changes at Flower by a reconciling; a second one must change nothing."""
        self.flower.changes.clear()
        assert self.reconcile() == []
        changes = list(self.flower.changes)
        self.reconcile()
        assert self.flower.changes == changes
        return sorted(changes)

    def node_ids(self) -> dict[str, int | None]:
        return {site.name: site.node_id for site in self.office.registry.sites()}


@pytest.fixture
def keeper(office: Office, tmp_path: Path, flower_address: tuple[SuperLinkAddress, list[Flower]]) -> Keeper:
    address, current = flower_address
    current[0] = Flower()
    return Keeper(office, tmp_path, address, current[0])


def test_enrolled_sites_become_nodes_once_and_their_ids_are_kept(keeper: Keeper) -> None:
    for name in ("a", "b"):
        keeper.office.enroll(keeper.office.token(name))
    assert keeper.changes() == ["+a", "+b"]
    assert set(keeper.node_ids().values()) == {2**63, 2**63 + 1}
    assert keeper.office.registry.node_names() == {node_id: name for name, node_id in keeper.node_ids().items()}


def test_a_site_that_ended_or_changed_its_key_leaves_its_old_node(keeper: Keeper) -> None:
    for name in ("a", "b"):
        keeper.office.enroll(keeper.office.token(name))
    keeper.changes()
    keeper.office.registry.end_site("a", "revoked")
    keeper.office.enroll(keeper.office.token("b", reenroll=True))
    assert keeper.changes() == ["+b", "-a", "-b"]
    assert sorted(keeper.office.registry.node_names().values()) == ["a", "b", "b"]


def test_a_kill_between_registering_and_writing_it_down_is_put_right(keeper: Keeper) -> None:
    key = new_node_key()
    keeper.office.enroll(keeper.office.token("a"), key)
    node_id = keeper.flower.add(flower_form(key), "a")
    assert keeper.changes() == []
    assert keeper.node_ids() == {"a": node_id}


def test_a_node_that_the_registry_does_not_know_is_unregistered(keeper: Keeper) -> None:
    keeper.flower.add(flower_form(new_node_key()), "by-hand")
    assert keeper.changes() == ["-by-hand"]


def test_a_database_of_flower_that_was_lost_is_filled_again(keeper: Keeper) -> None:
    keeper.office.enroll(keeper.office.token("a"))
    keeper.changes()
    keeper.flower.nodes.clear()
    keeper.flower.add(flower_form(new_node_key()), "takes the id")
    assert keeper.changes() == ["+a", "-takes the id"]
    assert keeper.node_ids() == {"a": 2**63 + 1}


def test_a_key_that_flower_has_given_up_is_a_problem_that_names_the_site(keeper: Keeper) -> None:
    keeper.office.enroll(keeper.office.token("a"))
    keeper.changes()
    for node in keeper.flower.nodes.values():
        node.status = "unregistered"
    assert "re-enroll" in keeper.reconcile()[0]
    assert " a " in keeper.reconcile()[0]


def test_a_flower_that_refuses_is_reported_and_tried_again(keeper: Keeper) -> None:
    keeper.office.enroll(keeper.office.token("a"))
    keeper.flower.refuses = True
    with pytest.raises(Refusal, match="not today"):
        keeper.reconcile()
    keeper.flower.refuses = False
    assert keeper.changes() == ["+a"]
