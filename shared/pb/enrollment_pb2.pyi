from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("moretta_version", "flwr_version", "code_digest", "bundle_digest", "unix_time_ms", "max_call_bytes")
    MORETTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    FLWR_VERSION_FIELD_NUMBER: _ClassVar[int]
    CODE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_CALL_BYTES_FIELD_NUMBER: _ClassVar[int]
    moretta_version: str
    flwr_version: str
    code_digest: str
    bundle_digest: str
    unix_time_ms: int
    max_call_bytes: int
    def __init__(self, moretta_version: _Optional[str] = ..., flwr_version: _Optional[str] = ..., code_digest: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., unix_time_ms: _Optional[int] = ..., max_call_bytes: _Optional[int] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("site", "csr_der", "node_public_key", "moretta_version")
    SITE_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    NODE_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    MORETTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    site: str
    csr_der: bytes
    node_public_key: str
    moretta_version: str
    def __init__(self, site: _Optional[str] = ..., csr_der: _Optional[bytes] = ..., node_public_key: _Optional[str] = ..., moretta_version: _Optional[str] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("certificate_der", "ca_der")
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    CA_DER_FIELD_NUMBER: _ClassVar[int]
    certificate_der: bytes
    ca_der: bytes
    def __init__(self, certificate_der: _Optional[bytes] = ..., ca_der: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_der", "moretta_version")
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    MORETTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    moretta_version: str
    def __init__(self, csr_der: _Optional[bytes] = ..., moretta_version: _Optional[str] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate_der",)
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    certificate_der: bytes
    def __init__(self, certificate_der: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("site", "state", "not_after", "last_call")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[StatusReply.State]
        STATE_ENROLLED: _ClassVar[StatusReply.State]
        STATE_REVOKED: _ClassVar[StatusReply.State]
    STATE_UNSPECIFIED: StatusReply.State
    STATE_ENROLLED: StatusReply.State
    STATE_REVOKED: StatusReply.State
    SITE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    LAST_CALL_FIELD_NUMBER: _ClassVar[int]
    site: str
    state: StatusReply.State
    not_after: int
    last_call: int
    def __init__(self, site: _Optional[str] = ..., state: _Optional[_Union[StatusReply.State, str]] = ..., not_after: _Optional[int] = ..., last_call: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CountersignHeadRequest(_message.Message):
    __slots__ = ("entry_digests",)
    ENTRY_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    entry_digests: bytes
    def __init__(self, entry_digests: _Optional[bytes] = ...) -> None: ...

class CountersignHeadReply(_message.Message):
    __slots__ = ("site", "head", "length", "unix_time", "certificate_der", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    head: str
    length: int
    unix_time: int
    certificate_der: bytes
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., head: _Optional[str] = ..., length: _Optional[int] = ..., unix_time: _Optional[int] = ..., certificate_der: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class FindingsRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: str
    def __init__(self, study: _Optional[str] = ...) -> None: ...

class FindingsReply(_message.Message):
    __slots__ = ("report_json",)
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    report_json: bytes
    def __init__(self, report_json: _Optional[bytes] = ...) -> None: ...
