"""Virtual sites in this very process: the ClientApp that Flower would run is called directly.

Flower's simulation runtime takes a minute to start and to end, whatever the study. A sweep runs hundreds of small
studies; here each costs what its training costs. The rest is the same: the server's stages and requests, the
strategies, the sites' app, their ledgers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moretta.server.app import connect
from moretta.server.stages.run import Run
from moretta.shared.core.flower_private import set_message_id

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

_FIRST_NODE = 2
"""1 is the server."""


@dataclass(frozen=True, slots=True)
class _Node:
    node_id: int
    last_activated_at: str = "at the start"


class LocalGrid:
    """As much of Flower's grid as the server uses. Every site responds as soon as a message is sent."""

    def __init__(self, run_folder: Path, sites: int) -> None:
        self._folder = run_folder
        self._nodes = [_Node(_FIRST_NODE + partition) for partition in range(sites)]
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all sites, which are always there."""
        return [node.node_id for node in self._nodes]

    def get_nodes(self) -> Iterable[_Node]:
        """All sites."""
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the sites respond, one after the other; returns the ids of the messages."""
        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            set_message_id(message, ids[-1])
            self._replies[ids[-1]] = self._respond(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The responses to these messages."""
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def _respond(self, message: Message) -> Message:
        from flwr.app import Context, RecordDict

        from moretta.client.app import app

        node = message.metadata.dst_node_id
        place: dict[str, Any] = {"partition-id": node - _FIRST_NODE, "num-partitions": len(self._nodes)}
        return app(message, Context(1, node, place, RecordDict(), {"run-dir": str(self._folder)}))


def connect_locally(run: Run, sites: int) -> None:
    """Give a simulation's run its sites, in this process.

    Raises:
        RunError: one did not respond.
    """
    from moretta.shared.core.flower_private import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # without them no message can be written
    connect(run, cast("Grid", LocalGrid(run.folder, sites)))
