"""Keeps the node keys of Flower's SuperLink equal to those of the registry.

Flower gives each node key it registers a random node id, and takes no key again that was unregistered once. So the
registry decides, Flower's own list is read, and only what differs is changed: done again, it changes nothing.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from google.protobuf.message import Message

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.port.refusals import Refusal
from moretta.server.port.superlink import SuperLinkClient
from moretta.shared.core import flower_private as private
from moretta.shared.core.flower_private import NodeInfo

_MAX_CHARACTERS = 512
_UNREGISTERED = "unregistered"
_Reply = TypeVar("_Reply", bound=Message)


def canonical_node_key(text: str) -> str:
    """A P-384 key in OpenSSH form without a comment, so that one key has one spelling; raises Refusal for any other."""
    try:
        key = load_ssh_public_key(text[: _MAX_CHARACTERS + 1].encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if len(text) > _MAX_CHARACTERS or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise Refusal("INVALID_ARGUMENT", "bad-node-key", "the node key is no ecdsa-sha2-nistp384 key in OpenSSH form")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def flower_form(node_key: str) -> bytes:
    """The key in PEM, as Flower registers and compares it."""
    return load_ssh_public_key(node_key.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def header_form(node_key: str) -> str:
    """The PEM form in base64, as in Flower's header `flwr-public-key`."""
    return base64.b64encode(flower_form(node_key)).decode()


@dataclass(frozen=True, slots=True)
class NodeKeeper:
    """Keeps the SuperLink in step with the registry, over its Control API on loopback."""

    superlink: SuperLinkClient
    registry: SiteRegistry
    audit: AuditLog

    async def reconcile(self) -> list[str]:
        """Bring Flower's list in line with the registry; returns the problems that remain.

        Raises Refusal where the SuperLink does not respond, or refuses.
        """
        listed = await self._control("list-nodes", private.ListNodesRequest(), private.ListNodesResponse)
        flowers = {node.public_key: node for node in listed.nodes_info}
        problems: list[str] = []
        for record in self.registry.node_keys():
            key = flower_form(record.public_key)
            node = flowers.pop(key, None)
            if not record.current:
                await self._unregister(node, record.site)
                continue
            if node is not None and node.status == _UNREGISTERED:
                problems.append(f"Flower takes the node key of {record.site} no more: re-enroll it with a new one")
                continue
            if node is None:
                request = private.RegisterNodeRequest(public_key=key, name=record.site)
                reply = await self._control("register-node", request, private.RegisterNodeResponse)
                node_id = int(reply.node_id)
            else:
                node_id = node.node_id
            if node_id != record.node_id:
                self.registry.set_node_id(record.public_key, node_id)
                self.audit.add("node-registered", site=record.site, node_id=str(node_id))
        for node in flowers.values():
            await self._unregister(node, "unknown")
        return problems

    async def _unregister(self, node: NodeInfo | None, site: str) -> None:
        if node is None or node.status == _UNREGISTERED:
            return
        request = private.UnregisterNodeRequest(node_id=node.node_id)
        await self._control("unregister-node", request, private.UnregisterNodeResponse)
        self.audit.add("node-unregistered", site=site, node_id=str(node.node_id))

    async def _control(self, call: str, request: Message, reply: type[_Reply]) -> _Reply:
        response = await self.superlink.post(f"/v1/control/{call}", request.SerializeToString())
        if response.status != 200:
            try:
                why = str(json.loads(response.body))[:200]
            except ValueError:
                why = repr(response.body[:200])
            raise Refusal("UNAVAILABLE", "flower-refused", f"Flower refuses {call}: {why}")
        return reply.FromString(response.body)
