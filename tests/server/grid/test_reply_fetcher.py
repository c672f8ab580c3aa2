"""Replies are fetched part by part, within a size, and whatever is wrong with one costs no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, get_object_tree

from moretta.server.grid import pending_request
from moretta.server.grid.pending_request import FetchedReply, ReplyFetcher
from moretta.shared.messages import wire


@dataclass
class SuperLink:
    """As much of Flower's Runtime API as brings replies."""

    replies: dict[str, tuple[ProtoMessage, ObjectTree]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Empty: announced, and not there yet."""
    fetched: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    """Messages whose replies were announced: Flower deletes them then, and calls them unavailable afterwards."""

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        assert not self.forgotten & set(request.message_ids), "a message is requested that the SuperLink has forgotten"
        self.forgotten |= self.replies.keys() & set(request.message_ids)
        found = [self.replies.pop(i) for i in request.message_ids if i in self.replies]
        return SimpleNamespace(messages_list=[m for m, _ in found], message_object_trees=[t for _, t in found])

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        self.fetched.append(request.object_id)
        content = self.objects.get(request.object_id)
        return SimpleNamespace(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)

    def announce(self, to: str, number: str, tree: ObjectTree, source: int = 7) -> None:
        meta = Metadata(message_id=number, src_node_id=source, reply_to_message_id=to)
        self.replies[to] = (ProtoMessage(metadata=meta), tree)

    def push(self, to: str, message: Message, *, source: int = 7) -> str:
        """A whole reply, as a SuperNode pushes it; returns its id."""
        for name, part in get_all_nested_objects(message).items():
            self.objects[name] = part.deflate()
        self.announce(to, message.object_id, get_object_tree(message), source)
        return message.object_id


@pytest.fixture
def superlink() -> SuperLink:
    return SuperLink()


def grid(superlink: SuperLink) -> Any:
    from flwr.proto.node_pb2 import Node

    return SimpleNamespace(_runtime_client=superlink, node=Node(node_id=1), run=SimpleNamespace(run_id=3))


def look(superlink: SuperLink, ids: list[str], max_bytes: int = 1 << 20) -> list[FetchedReply]:
    return ReplyFetcher(grid(superlink), max_bytes=max_bytes).look(ids)


def reply(values: int = 100, **config: Any) -> Message:
    arrays = ArrayRecord({"w": Array(np.arange(values, dtype=np.float32))})
    return Message(
        RecordDict({wire.CONFIG: ConfigRecord(config), wire.ARRAYS: arrays}), dst_node_id=1, message_type="train.voice"
    )


def test_a_reply_arrives_as_it_was_sent_and_is_forgotten_at_the_superlink(superlink: SuperLink) -> None:
    number = superlink.push("m1", reply(note="x"))
    (found,) = look(superlink, ["m1", "m2"])
    assert (found.to, found.source) == ("m1", 7)
    assert found.message is not None
    assert found.message.content[wire.CONFIG]["note"] == "x"  # type: ignore[index]
    np.testing.assert_array_equal(wire.arrays_of(found.message.content)["w"], np.arange(100, dtype=np.float32))
    assert superlink.confirmed == [number]


def test_a_reply_whose_parts_are_not_there_yet_holds_up_nobody(superlink: SuperLink) -> None:
    superlink.push("m1", reply(note="slow"))
    slow = [name for name, content in superlink.objects.items() if b"slow" in content]
    kept = {name: superlink.objects[name] for name in slow}
    superlink.objects.update(dict.fromkeys(slow, b""))
    superlink.push("m2", reply(note="quick"))
    coming = ReplyFetcher(grid(superlink), max_bytes=1 << 20)
    assert [r.to for r in coming.look(["m1", "m2"])] == ["m2"]
    assert coming.look(["m1", "m3"]) == []
    superlink.objects.update(kept)
    (found,) = coming.look(["m1"])
    assert found.message is not None


def test_a_reply_whose_parts_are_gone_is_lost(superlink: SuperLink) -> None:
    superlink.push("m1", reply())
    superlink.objects.clear()
    (found,) = look(superlink, ["m1"])
    assert (found.message, found.lost) == (None, True)


def test_a_reply_beyond_its_size_is_given_up_before_the_rest_is_fetched(superlink: SuperLink) -> None:
    """As 512 MiB in a greeting, of which no more than a little over the limit is fetched."""
    number = superlink.push("m1", reply(values=40_000_000 // 4, note="x"))  # 5 MB a part
    (found,) = look(superlink, ["m1"], max_bytes=6_000_000)
    assert "more than 6000000 bytes" in found.problem
    assert len(superlink.fetched) <= 2 * pending_request._AT_ONCE
    assert superlink.confirmed == [number]


def test_one_part_that_an_array_names_a_thousand_times_is_too_large(superlink: SuperLink) -> None:
    message = reply(values=1000)
    parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    bomb = _rewritten(parts, b'"arraychunk_ids": [0]', b'"arraychunk_ids": [' + b",".join([b"0"] * 1000) + b"]")
    number = next(name for name, content in bomb.items() if content.startswith(b"Message"))
    superlink.objects.update(bomb)
    superlink.announce("m1", number, ObjectTree(object_id=number, children=[ObjectTree(object_id=n) for n in bomb]))
    (found,) = look(superlink, ["m1"])
    assert "arrays of more than" in found.problem


def _rewritten(parts: dict[str, bytes], old: bytes, new: bytes) -> dict[str, bytes]:
    """The same objects with one body changed, and with the ids and lengths that follow from it."""
    renamed: dict[str, bytes] = {}
    names: dict[bytes, bytes] = {}
    for name, content in parts.items():  # children come before their parents
        head, body = content.split(b"\x00", 1)
        body = body.replace(old, new)
        for before, after in names.items():
            head, body = head.replace(before, after), body.replace(before, after)
        kind, children, _ = head.split(b" ")
        made = b" ".join([kind, children, str(len(body)).encode()]) + b"\x00" + body
        names[name.encode()] = get_object_id(made).encode()
        renamed[get_object_id(made)] = made
    return renamed


BAD = {
    "no object": b"nothing",
    "no head": b"Message",
    "another class": b"Thing  0\x00",
    "a class that is no message": b"ConfigRecord  0\x00",
    "a length that is no number": b"Message  x\x00",
    "no text": b"\xff\xfe \xff 1\x00x",
    "a child that is not there": b"Message " + b"0" * 64 + b" 0\x00",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_parts_that_make_no_message_cost_their_sender_alone(superlink: SuperLink, content: bytes) -> None:
    number = get_object_id(content)
    superlink.objects[number] = content
    superlink.announce("m1", number, ObjectTree(object_id=number))
    superlink.push("m2", reply(note="x"))
    found = {r.to: r for r in look(superlink, ["m1", "m2"])}
    assert found["m1"].message is None
    assert "cannot be read" in found["m1"].problem
    assert found["m2"].message is not None


def test_a_part_under_another_s_name_is_refused(superlink: SuperLink) -> None:
    superlink.push("m1", reply(note="x"))
    superlink.objects = dict.fromkeys(superlink.objects, next(iter(superlink.objects.values())))
    (found,) = look(superlink, ["m1"])
    assert "cannot be read" in found.problem


def test_a_reply_of_too_many_parts_is_refused_before_one_is_fetched(superlink: SuperLink) -> None:
    children = [ObjectTree(object_id=str(n)) for n in range(pending_request.MAX_OBJECTS + 1)]
    superlink.announce("m1", "n", ObjectTree(object_id="n", children=children))
    (found,) = look(superlink, ["m1"])
    assert "parts" in found.problem
    assert not superlink.fetched


def test_who_sent_a_reply_and_to_what_is_what_the_superlink_says(superlink: SuperLink) -> None:
    """A reply's own head is its sender's word: with another's node and message in it, it stays its sender's."""
    forged = reply(note="forged")
    forged.metadata.__dict__["_src_node_id"] = 99
    forged.metadata.__dict__["_reply_to_message_id"] = "m9"
    superlink.push("m1", forged)
    (found,) = look(superlink, ["m1"])
    assert (found.to, found.source) == ("m1", 7)
