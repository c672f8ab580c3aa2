"""What this server tells sites about itself."""

from __future__ import annotations

from moretta.deploy.bundle import installed_bundle
from moretta.server.enrollment.service import ServerFacts
from moretta.shared.core.versions import code_digest, versions


def server_facts(*, max_call_bytes: int) -> ServerFacts:
    """Versions and digests of what is installed here."""
    found = versions()
    return ServerFacts(
        moretta_version=found["moretta"],
        flwr_version=found["flwr"],
        code_digest=code_digest(),
        bundle_digest=installed_bundle().digest,
        max_call_bytes=max_call_bytes,
    )
