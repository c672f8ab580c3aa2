"""A grid of fake sites, so that the server's side runs without a process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.supercore.task_identity import TaskIdentity

from moretta.server.grid.hello import hello_virtual
from moretta.server.grid.site_grid import SiteGrid
from moretta.shared.messages import wire

sys.path.insert(0, str(Path(__file__).parent))  # `offices` and `ports`, which the network's tests share

Reply = RecordDict | str | Message | None
"""Content, the text of a Flower error, a whole message, or silence."""


NODE_UNAVAILABLE = 5
"""Flower's code for a site that is away."""


def reply_from(node: int, content: RecordDict | str, to: str = "m", code: int = 2) -> Message:
    """A reply of a node, or the error that Flower's SuperLink gives in its place."""
    if isinstance(content, str):
        source = 1 if code == NODE_UNAVAILABLE else node
        metadata = Metadata(1, "r", source, 0, to, "", 1e9, 1e9, "query")
        return Message(Error(code=code, reason=content), metadata=metadata)
    return Message(content, metadata=Metadata(1, "r", node, 0, to, "", 1e9, 1e9, "query"))


@dataclass
class Node:
    node_id: int
    last_activated_at: str = "at first"


@dataclass
class FakeGrid:
    """Responds as set: `answer(node, message)` gives one reply, several, or none."""

    response: Callable[[int, Message], Reply | list[Reply]]
    nodes: list[int]
    order: Callable[[list[Message]], list[Message]] = lambda replies: replies
    sent: list[Message] = field(default_factory=list)
    strangers: list[Message] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    """Nodes that Flower holds for offline."""
    started: dict[int, str] = field(default_factory=dict)
    waiting: dict[str, list[Message]] = field(default_factory=dict)
    """Message id -> replies that were not pulled yet."""
    on_pull: Callable[[], None] = lambda: None

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.nodes if node not in self.away]

    def get_nodes(self) -> Iterable[Any]:
        return [Node(node, self.started.get(node, "at first")) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.content = wire.unpacked(message.content)  # as a site reads it
            self.sent.append(message)
            node, number = message.metadata.dst_node_id, f"m{len(self.sent)}"
            if node in self.away:
                replies = [reply_from(node, "Node Unavailable", number, NODE_UNAVAILABLE)]
            else:
                given = self.response(node, message)
                every = given if isinstance(given, list) else [given]
                replies = [r if isinstance(r, Message) else reply_from(node, r, number) for r in every if r is not None]
                for reply in replies:
                    reply.metadata.__dict__["_reply_to_message_id"] = number
            self.waiting[number] = replies
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.on_pull()
        replies = [reply for number in list(message_ids) for reply in self.waiting.pop(number, [])]
        strangers, self.strangers = self.strangers, []
        return self.order(replies + strangers)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def named(node: int, **values: Any) -> RecordDict:
    """Response of a site to a greeting, with more values, or with a failure instead."""
    hello = {} if "failure" in values else {"versions": {"python": "3"}, "digest": "0" * 64}
    return RecordDict({wire.CONFIG: wire.json_config(site=f"site-{node}", **hello, **values)})


@pytest.fixture(autouse=True)
def _as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)


@pytest.fixture
def fake_grid() -> type[FakeGrid]:
    return FakeGrid


@pytest.fixture
def fake_site_grid() -> Callable[..., SiteGrid]:
    def make(response: Any, *, nodes: int = 3, deadline: float = 60.0, **grid: Any) -> SiteGrid:
        clock = FakeClock()
        fake: Any = FakeGrid(response, list(range(1, nodes + 1)), **grid)
        return SiteGrid(fake, deadline, clock=clock, sleep=clock.sleep)

    return make


@pytest.fixture
def hellos() -> Callable[[SiteGrid, int], SiteGrid]:
    def greet(site_grid: SiteGrid, expected: int) -> SiteGrid:
        hello_virtual(site_grid, expected)
        return site_grid

    return greet


@pytest.fixture
def hello() -> Callable[..., RecordDict]:
    return named


@pytest.fixture
def reply() -> Callable[..., Message]:
    return reply_from
