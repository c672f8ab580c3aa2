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

from moretta.server.exchange import Exchange
from moretta.shared import wire

sys.path.insert(0, str(Path(__file__).parent))  # `offices` and `ports`, which the network's tests share

Reply = RecordDict | str | None
"""Content, the text of a Flower error, or silence."""


def reply_from(node: int, content: RecordDict | str) -> Message:
    metadata = Metadata(1, "r", node, 0, "m", "", 1e9, 1e9, "query")
    if isinstance(content, str):
        return Message(Error(code=1, reason=content), metadata=metadata)
    return Message(content, metadata=metadata)


@dataclass
class FakeGrid:
    """Answers as told: `answer(node, message)` gives one reply, several, or none."""

    answer: Callable[[int, Message], Reply | list[Reply]]
    nodes: list[int]
    order: Callable[[list[Message]], list[Message]] = lambda replies: replies
    sent: list[Message] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    strangers: list[Message] = field(default_factory=list)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        assert timeout is not None
        self.timeouts.append(timeout)
        replies = []
        for message in messages:
            self.sent.append(message)
            node = message.metadata.dst_node_id
            given = self.answer(node, message)
            replies += [reply_from(node, r) for r in (given if isinstance(given, list) else [given]) if r is not None]
        return self.order(replies + self.strangers)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def named(node: int, **values: Any) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(site=f"site-{node}", **values)})


@pytest.fixture(autouse=True)
def _as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)


@pytest.fixture
def fake_grid() -> type[FakeGrid]:
    return FakeGrid


@pytest.fixture
def fake_exchange() -> Callable[..., Exchange]:
    def make(answer: Any, *, nodes: int = 3, deadline: float = 60.0, **grid: Any) -> Exchange:
        clock = FakeClock()
        fake: Any = FakeGrid(answer, list(range(1, nodes + 1)), **grid)
        return Exchange(fake, deadline, clock=clock, sleep=clock.sleep)

    return make


@pytest.fixture
def hello() -> Callable[..., RecordDict]:
    return named


@pytest.fixture
def reply() -> Callable[..., Message]:
    return reply_from
