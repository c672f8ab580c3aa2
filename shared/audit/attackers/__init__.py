"""Attackers, one file each, found by name. `docs/attackers.md` shows how to write one."""

from moretta.shared.audit.attackers.base import (
    Attacker,
    Embedder,
    Identifier,
    NotConvergedError,
    PoolIdentifier,
    attacker,
    attacker_names,
    get_attacker,
)

__all__ = [
    "Attacker",
    "Embedder",
    "Identifier",
    "NotConvergedError",
    "PoolIdentifier",
    "attacker",
    "attacker_names",
    "get_attacker",
]
