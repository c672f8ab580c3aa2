"""The standard gRPC health service, told the truth: SERVING only while everything it needs is there.

`Watch` is left out: a stream that stays open would go on after a revocation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from moretta.server.enrollment.records import KnownCertificate
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.refusal import Refusal
from moretta.shared.pb import enrollment_pb2, relay_pb2

ENROLLMENT = enrollment_pb2.DESCRIPTOR.services_by_name["Enrollment"].full_name
RELAY = relay_pb2.DESCRIPTOR.services_by_name["Relay"].full_name
HEALTH = "grpc.health.v1.Health"

_NEEDS = {
    "": ("registry", "authority", "superlink"),
    HEALTH: (),
    ENROLLMENT: ("registry", "authority"),
    RELAY: ("registry", "superlink"),
}

Problems = Mapping[str, str | None]
"""By part (`registry`, `authority`, `superlink`): what is wrong with it, or None."""


def is_serving(service: str, problems: Problems) -> bool:
    """Whether a service has all it needs; the empty name is the server as a whole."""
    return all(problems.get(part, "never looked at") is None for part in _NEEDS[service])


def health_methods(problems: Callable[[], Problems]) -> list[Method]:
    """`grpc.health.v1.Health`, for enrolled sites."""

    async def check(caller: KnownCertificate, request: HealthCheckRequest, make_room: MakeRoom) -> HealthCheckResponse:
        del caller, make_room
        if request.service not in _NEEDS:
            raise Refusal("NOT_FOUND", "unknown-service", "no such service is here")
        good = is_serving(request.service, problems())
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if good else HealthCheckResponse.NOT_SERVING)

    return [Method("Check", HealthCheckRequest, check)]
