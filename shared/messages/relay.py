"""What both ends of the relay must agree on besides `relay.proto`."""

from __future__ import annotations

FLEET_METHODS = frozenset(
    {
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "register-node",
        "send-node-heartbeat",
        "unregister-node",
    }
)
"""The twelve calls of Flower 1.41's Fleet API, under `/v1/fleet/`."""

BODY_BYTES_KEY = "moretta-body-bytes"
"""Metadata of `Relay.Call`: how long the body is, in decimal. The server makes room for so much before it reads it; a
call that does not say is taken for the longest one, and one that says too little is refused."""

SMALL_BODY_BYTES = 64 << 10
"""A body up to this long needs no room made for it: heartbeats do not wait behind updates."""
