"""What this server tells sites about itself."""

from __future__ import annotations

from moretta.deploy.bundle import installed_bundle
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.pb.enrollment_pb2 import InfoReply


def server_info(*, max_call_bytes: int) -> InfoReply:
    """Versions and digests of what is installed here."""
    found = versions()
    return InfoReply(
        moretta_version=found["moretta"],
        flwr_version=found["flwr"],
        code_digest=code_digest(),
        bundle_digest=installed_bundle().digest,
        max_call_bytes=max_call_bytes,
    )
