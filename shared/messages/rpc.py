"""The calls of both services as a client makes them, by what their descriptors say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message_factory import GetMessageClass

from moretta.shared.pb import enrollment_pb2, relay_pb2

if TYPE_CHECKING:
    import grpc
    import grpc.aio


class Stub:
    """Each method of a service under its own name: a call with a message, as gRPC makes it on this kind of channel."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel, file: Any, service: str) -> None:
        described = file.DESCRIPTOR.services_by_name[service]
        self._calls = {
            method.name: channel.unary_unary(
                f"/{described.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            for method in described.methods
        }

    def __getattr__(self, name: str) -> Any:
        try:
            return self._calls[name]
        except KeyError:
            raise AttributeError(f"the service has no method {name}") from None


def enrollment(channel: grpc.Channel | grpc.aio.Channel) -> Stub:
    """Stub of `protos/enrollment.proto`."""
    return Stub(channel, enrollment_pb2, "Enrollment")


def relay(channel: grpc.Channel | grpc.aio.Channel) -> Stub:
    """Stub of `protos/relay.proto`."""
    return Stub(channel, relay_pb2, "Relay")
