"""Every message of both protocols, well formed and not, by a site and by who has a join string: each is served or
refused by name, costs nobody else anything, and changes nothing that it may not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import Calls, Echo, RunningPort, echo_superlink, refusal
from starlette.responses import Response

from moretta.server.home import Limits
from moretta.shared.messages.relay import BODY_BYTES_KEY
from moretta.shared.pb import enrollment_pb2, relay_pb2

SERVICES = [
    *enrollment_pb2.DESCRIPTOR.services_by_name.values(),
    *relay_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS = {
    f"/{service.full_name}/{method.name}": method.input_type for service in SERVICES for method in service.methods
} | {"/grpc.health.v1.Health/Check": HealthCheckRequest.DESCRIPTOR}
LEAVE = "/moretta.enrollment.v1.Enrollment/Leave"
REFUSALS = {
    *("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"),
    "NOT_FOUND",
}
_VALUES = {
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=600),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
}


def messages(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of this kind, with any values in any of their fields."""
    fields = {
        field.name: st.binary(max_size=600) if field.type == FieldDescriptor.TYPE_BYTES else _VALUES[field.cpp_type]
        for field in kind.fields
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: GetMessageClass(kind)(**values))


@dataclass
class Fuzzed:
    port: RunningPort
    echo: Echo
    callers: dict[str, Calls]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with echo_superlink(tmp_path_factory.mktemp("echo")) as echo:
        echo.response = lambda path, body: Response(body)
        port = RunningPort(tmp_path_factory.mktemp("fuzz"), echo, limits=Limits(calls_per_second=100_000))
        site, string = port.enrolled(), port.office.join("unused")
        yield Fuzzed(port, echo, {"site": port.as_site(site), "string": port.with_token(string)})
        port.close()


@pytest.mark.parametrize("path", sorted(METHODS))
@pytest.mark.parametrize("caller", ["site", "string"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_message_is_served_or_refused_by_name(fuzzed: Fuzzed, path: str, caller: str, data: st.DataObject) -> None:
    if (caller, path) == ("site", LEAVE):
        return  # any bytes say that it leaves, as they should
    sent = data.draw(st.binary(max_size=600) | messages(METHODS[path]).map(lambda m: m.SerializeToString()))
    declared = data.draw(st.sampled_from(["", "0", "600", "-1", "1e3", "9" * 15, "9" * 16, "10 "]))
    before, forwarded = fuzzed.port.office.state(), len(fuzzed.echo.calls)
    metadata = ((BODY_BYTES_KEY, declared),) if declared else None
    try:
        fuzzed.callers[caller].channel.unary_unary(path)(sent, timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        status, reason = refusal(error)
        assert status in REFUSALS, error.details()
        assert reason != "defect"
    assert fuzzed.port.office.state() == before
    assert len(fuzzed.echo.calls) == forwarded
    assert fuzzed.port.guard.admission.bytes_in_flight == 0


def test_every_method_of_both_protocols_is_fuzzed() -> None:
    assert {path.rpartition("/")[2] for path in METHODS} == {
        *("Info", "Enroll", "Renew", "Status", "Leave", "CountersignHead", "Findings", "Call", "Check"),
    }
