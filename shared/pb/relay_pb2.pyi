from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FleetCall(_message.Message):
    __slots__ = ("method", "body", "public_key", "signature", "timestamp")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    method: str
    body: bytes
    public_key: str
    signature: str
    timestamp: str
    def __init__(self, method: _Optional[str] = ..., body: _Optional[bytes] = ..., public_key: _Optional[str] = ..., signature: _Optional[str] = ..., timestamp: _Optional[str] = ...) -> None: ...

class FleetReply(_message.Message):
    __slots__ = ("status", "body")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status: int
    body: bytes
    def __init__(self, status: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...
