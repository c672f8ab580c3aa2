"""Flower's SuperLink knows the node keys that the registry wants, and no others.

Flower gives each node key it registers a random node id, and takes no key again that was unregistered once. So the
registry decides, Flower's own list is read, and only what differs is changed: done again, it changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.keys import flower_form
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.enrollment.tables import NodeKeyRecord
from moretta.server.port.refusals import Refusal
from moretta.server.relay.superlink_client import SuperLinkClient
from moretta.shared.core import flower_private as private

if TYPE_CHECKING:
    from moretta.shared.core.flower_private import NodeInfo

_UNREGISTERED = "unregistered"
_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class NodeKeeper:
    """Talks with the SuperLink's Control API, on loopback."""

    superlink: SuperLinkClient
    registry: SiteRegistry
    audit: AuditLog

    async def reconcile(self) -> list[str]:
        """Bring Flower's list in line with the registry; returns the problems that remain.

        Raises:
            Refusal: the SuperLink does not respond, or refuses.
        """
        flowers = await self._listed()
        problems: list[str] = []
        for record in self.registry.node_keys():
            node = flowers.pop(flower_form(record.public_key), None)
            if record.current:
                problems += await self._ensure(record, node)
            elif node is not None and node.status != _UNREGISTERED:
                await self._unregister(node, record.site)
        for node in flowers.values():
            if node.status != _UNREGISTERED:
                await self._unregister(node, "unknown")
        return problems

    async def _ensure(self, record: NodeKeyRecord, node: NodeInfo | None) -> list[str]:
        if node is not None and node.status == _UNREGISTERED:
            return [f"Flower takes the node key of {record.site} no more: re-enroll it with a new one"]
        node_id = node.node_id if node is not None else await self._register(record)
        if node_id != record.node_id:
            self.registry.set_node_id(record.public_key, node_id)
            self.audit.add("node-registered", site=record.site, node_id=str(node_id))
        return []

    async def _listed(self) -> dict[bytes, NodeInfo]:
        reply = await self._control("list-nodes", private.ListNodesRequest(), private.ListNodesResponse)
        return {node.public_key: node for node in reply.nodes_info}

    async def _register(self, record: NodeKeyRecord) -> int:
        request = private.RegisterNodeRequest(public_key=flower_form(record.public_key), name=record.site)
        return int((await self._control("register-node", request, private.RegisterNodeResponse)).node_id)

    async def _unregister(self, node: NodeInfo, site: str) -> None:
        request = private.UnregisterNodeRequest(node_id=node.node_id)
        await self._control("unregister-node", request, private.UnregisterNodeResponse)
        self.audit.add("node-unregistered", site=site, node_id=str(node.node_id))

    async def _control(self, call: str, request: Message, reply: type[_Reply]) -> _Reply:
        response = await self.superlink.post(f"/v1/control/{call}", request.SerializeToString())
        if response.status != 200:
            raise Refusal("UNAVAILABLE", "flower-refused", f"Flower refuses {call}: {_reason(response.body)}")
        return reply.FromString(response.body)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body))[:200]
    except ValueError:
        return repr(body[:200])
