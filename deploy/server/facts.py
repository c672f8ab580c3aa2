"""What this server tells sites about itself."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from moretta.server.enrollment.service import ServerFacts
from moretta.shared.versions import code_digest, versions


@cache
def server_facts(*, max_call_bytes: int) -> ServerFacts:
    """Versions and digests of what is installed here. Takes a second the first time."""
    found = versions()
    return ServerFacts(
        moretta_version=found["moretta"],
        flwr_version=found["flwr"],
        code_digest=code_digest(),
        bundle_digest=bundle_digest(),
        max_call_bytes=max_call_bytes,
    )


def bundle_digest() -> str:
    """SHA-256 of the Flower bundle that this installation submits, as Flower packs it; hexadecimal."""
    from flwr.cli.build import build_fab_from_disk

    return hashlib.sha256(build_fab_from_disk(Path(__file__).parent.parent / "fab")).hexdigest()
