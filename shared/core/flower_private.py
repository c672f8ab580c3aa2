"""Every private name of Flower 1.41 that Moretta relies on, in one place: what a new version of Flower may move.

Public are `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and `flwr.simulation`; everything else is imported from here.
A name is looked up when it is first used, so importing this module costs nothing. A test looks up all of them.
"""

# ruff: noqa: PLC0414 - `X as X` is a re-export for the type checker
from __future__ import annotations

import ast
import sys
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.cli.build import build_fab_from_files as build_fab_from_files
    from flwr.common.constant import SUPERLINK_NODE_ID as SUPERLINK_NODE_ID
    from flwr.common.constant import ErrorCode as ErrorCode
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares as combine_shares
    from flwr.common.secure_aggregation.crypto.shamir import create_shares as create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt as decrypt
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt as encrypt
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key as generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import (
        share_keys_plaintext_concat as share_keys_plaintext_concat,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import (
        share_keys_plaintext_separate as share_keys_plaintext_separate,
    )
    from flwr.common.serde import context_from_proto as context_from_proto
    from flwr.common.serde import context_to_proto as context_to_proto
    from flwr.common.serde import message_from_proto as message_from_proto
    from flwr.common.serde import message_to_proto as message_to_proto
    from flwr.common.serde import user_config_to_proto as user_config_to_proto
    from flwr.proto.control_pb2 import ListNodesRequest as ListNodesRequest
    from flwr.proto.control_pb2 import ListNodesResponse as ListNodesResponse
    from flwr.proto.control_pb2 import ListRunsRequest as ListRunsRequest
    from flwr.proto.control_pb2 import RegisterNodeRequest as RegisterNodeRequest
    from flwr.proto.control_pb2 import RegisterNodeResponse as RegisterNodeResponse
    from flwr.proto.control_pb2 import StartRunRequest as StartRunRequest
    from flwr.proto.control_pb2 import StopRunRequest as StopRunRequest
    from flwr.proto.control_pb2 import UnregisterNodeRequest as UnregisterNodeRequest
    from flwr.proto.control_pb2 import UnregisterNodeResponse as UnregisterNodeResponse
    from flwr.proto.fab_pb2 import Fab as Fab
    from flwr.proto.fab_pb2 import GetFabRequest as GetFabRequest
    from flwr.proto.fab_pb2 import GetFabResponse as GetFabResponse
    from flwr.proto.fleet_pb2 import PullMessagesResponse as PullMessagesResponse
    from flwr.proto.fleet_pb2 import PushMessagesRequest as PushMessagesRequest
    from flwr.proto.fleet_pb2 import PushMessagesResponse as PushMessagesResponse
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest as ConfirmMessageReceivedRequest
    from flwr.proto.message_pb2 import PullObjectRequest as PullObjectRequest
    from flwr.proto.message_pb2 import PushObjectRequest as PushObjectRequest
    from flwr.proto.node_pb2 import NodeInfo as NodeInfo
    from flwr.proto.run_pb2 import GetRunResponse as GetRunResponse
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest as PullAppMessagesRequest
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse as PullAppMessagesResponse
    from flwr.proto.runtime_pb2 import PullTaskInputResponse as PullTaskInputResponse
    from flwr.server.superlink.fleet.vce.backend import Backend as Backend
    from flwr.simulation.run_simulation import _run_simulation as _run_simulation
    from flwr.supercore.cli import flower_superexec as flower_superexec
    from flwr.supercore.constant import NOOP_FEDERATION_ID as NOOP_FEDERATION_ID
    from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG as TASK_TYPE_TO_APPIO_API_ADDRESS_ARG
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND as TASK_TYPE_TO_COMMAND
    from flwr.supercore.constant import TaskType as TaskType
    from flwr.supercore.control import ControlHttpClient as ControlHttpClient
    from flwr.supercore.inflatable.inflatable_object import (
        get_object_head_values_from_object_content as get_object_head_values_from_object_content,
    )
    from flwr.supercore.inflatable.inflatable_object import get_object_id as get_object_id
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents as inflate_object_from_contents
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor as RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import bytes_to_private_key as bytes_to_private_key
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key as bytes_to_public_key
    from flwr.supercore.primitives.asymmetric import generate_key_pairs as generate_key_pairs
    from flwr.supercore.primitives.asymmetric import private_key_to_bytes as private_key_to_bytes
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes as public_key_to_bytes
    from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign as create_message_to_sign
    from flwr.supercore.run import Run as Run
    from flwr.supercore.run import RunNotRunningException as RunNotRunningException
    from flwr.supercore.superexec.executor import ExecutionSpec as ExecutionSpec
    from flwr.supercore.superexec.executor import LaunchResult as LaunchResult
    from flwr.supercore.superexec.executor import factory as factory
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor as SubprocessExecutor
    from flwr.supercore.task_identity import TaskIdentity as TaskIdentity
    from flwr.supercore.telemetry import EventType as EventType


@cache
def names() -> dict[str, str]:
    """The module of each name, as the imports above say, which only type checkers execute."""
    block = next(
        node for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body if isinstance(node, ast.If)
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    if name not in names():
        raise AttributeError(f"{name} is not in the table of Flower's private names in {__name__}")
    return getattr(import_module(names()[name]), name)


def runtime_client(grid: Any) -> Any:
    """The client of Flower's Runtime API behind an `HttpGrid`; None for a grid within this process."""
    return getattr(grid, "_runtime_client", None)


def set_message_id(message: Any, message_id: str) -> None:
    """Give a message its id, which Flower's own grid and SuperLink set in the same way."""
    message.metadata.__dict__["_message_id"] = message_id


def use_backend(backend: Any) -> None:
    """Have Flower's simulation engine run its ClientApps by this `Backend`.

    `_run_simulation` takes the name of a backend and passes it on, but `start_vce` imports Ray's whatever it is.
    """
    module = ModuleType("flwr.server.superlink.fleet.vce.backend.raybackend")
    module.RayBackend = lambda _config: backend  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


def look_more_often(seconds: float) -> None:
    """Have a SuperNode look this often whether its ClientApp has responded, in its own memory, instead of each 0.5 s.

    Its pause of 3 s after it has asked the SuperLink for a message and got none stays.
    """
    from flwr.supernode import start_client_internal as module

    pause = time.sleep
    module.time = SimpleNamespace(sleep=lambda wanted: pause(seconds if wanted < 1 else wanted))  # type: ignore
