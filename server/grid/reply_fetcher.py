"""Replies on their way from Flower's SuperLink: fetched piece by piece, within a size, each at the cost of its sender.

Flower's own `pull_messages` fetches all replies in one go. One whose objects were announced and not sent yet holds up
the others for up to two hours, one that cannot be put together ends them all, and there is no limit to their size.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

MAX_OBJECTS = 20_000
"""Parts of one reply, as Flower takes it apart: an array has one for each 5 MB, and each record and array is one."""
_AT_ONCE = 4
"""Parts that are asked for before it is looked whether they were there."""
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that came, or that cannot come any more."""

    to: str
    """Id of the message that it replies to, as Flower's SuperLink has it."""
    source: int
    """The node that it is from, as Flower's SuperLink has it."""
    message: Message | None
    problem: str = ""
    """Why there is no message."""
    lost: bool = False
    """It went lost on the way; nothing is wrong with what it said."""


class TooLargeError(ValueError):
    """A reply has more bytes or parts than its kind can have."""


@dataclass
class _Coming:
    """A reply that is announced, and what is there of it."""

    to: str
    source: int
    message_id: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class ReplyFetcher:
    """What comes in reply to the messages of one request.

    Args:
        grid: Flower's.
        max_bytes: of one reply; a larger one is given up as soon as that is seen.
    """

    def __init__(self, grid: Grid, *, max_bytes: int) -> None:
        self._grid: Any = grid
        self._max_bytes = max_bytes
        self._coming: list[_Coming] = []

    def look(self, message_ids: Sequence[str]) -> list[Reply]:
        """Replies to these messages that are whole by now. Nothing is waited for.

        Raises:
            httpx.HTTPError: the SuperLink does not answer.
        """
        if not hasattr(self._grid, "_runtime_client"):  # a grid within this process: its messages are whole
            found = self._grid.pull_messages(list(message_ids))
            return [Reply(m.metadata.reply_to_message_id, m.metadata.src_node_id, m) for m in found]
        wanted = set(message_ids)
        # The SuperLink forgets a message once its reply is announced: asked again, it would call the message lost.
        replies = list(self._announced(wanted - {coming.to for coming in self._coming}))
        self._coming = [coming for coming in self._coming if coming.to in wanted]
        for coming in list(self._coming):
            reply = self._fetched(coming)
            if reply is not None:
                self._coming.remove(coming)
                replies.append(reply)
        return replies

    def _announced(self, message_ids: Collection[str]) -> Iterator[Reply]:
        """Take note of new replies; gives those that are refused at once."""
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest

        if not message_ids:
            return
        response = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=sorted(message_ids)))
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            meta = proto.metadata
            try:
                parts = list(dict.fromkeys(_parts(tree)))
            except TooLargeError as error:
                self._confirm(meta.message_id)
                yield Reply(meta.reply_to_message_id, meta.src_node_id, None, str(error))
            else:
                self._coming.append(_Coming(meta.reply_to_message_id, meta.src_node_id, meta.message_id, parts))

    def _fetched(self, coming: _Coming) -> Reply | None:
        """The reply if it is whole, or cannot be; None while parts are on their way."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            while coming.missing:
                batch = coming.missing[:_AT_ONCE]
                for part, response in zip(batch, pool.map(self._part, batch), strict=True):
                    if not response.object_found:
                        return Reply(
                            coming.to, coming.source, None, "parts of its reply were not sent in time", lost=True
                        )
                    if not response.object_available:
                        return None
                    coming.missing.remove(part)
                    coming.contents[part] = response.object_content
                    coming.size += len(response.object_content)
                    if coming.size > self._max_bytes:
                        return self._refused(coming, f"a reply of more than {self._max_bytes} bytes")
        self._confirm(coming.message_id)
        try:
            return Reply(coming.to, coming.source, put_together(coming.message_id, coming.contents, self._max_bytes))
        except TooLargeError as error:
            return Reply(coming.to, coming.source, None, str(error))
        except Exception as error:  # whatever its parts are, they must cost nobody else's reply
            return Reply(coming.to, coming.source, None, f"a reply that cannot be read ({type(error).__name__})")

    def _refused(self, coming: _Coming, why: str) -> Reply:
        self._confirm(coming.message_id)
        return Reply(coming.to, coming.source, None, why)

    def _part(self, object_id: str) -> Any:
        from flwr.proto.message_pb2 import PullObjectRequest

        request = PullObjectRequest(node=self._grid.node, run_id=self._run_id, object_id=object_id)
        return self._grid._runtime_client.PullObject(request)

    def _confirm(self, message_id: str) -> None:
        """Let the SuperLink forget the parts."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        self._grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._grid.node, run_id=self._run_id, message_object_id=message_id)
        )

    @property
    def _run_id(self) -> int:
        run_id: int = self._grid.run.run_id
        return run_id


def put_together(message_id: str, contents: dict[str, bytes], max_bytes: int) -> Message:
    """A message from its parts.

    Raises:
        TooLargeError: an array names one part many times, so that the whole would be larger than `max_bytes`.
        Exception: of many kinds, where the parts do not make a message.
    """
    from flwr.app import Message
    from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content, get_object_id
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    if any(get_object_id(content) != name for name, content in contents.items()):
        raise ValueError("a part that is not the one announced")
    whole = 0
    for content in contents.values():
        kind, children, length = get_object_head_values_from_object_content(content)
        if kind != "Array":
            continue
        used = json.loads(content[len(content) - length :])["arraychunk_ids"]
        whole += sum(len(contents[children[index]]) for index in used)
        if whole > max_bytes:
            raise TooLargeError(f"arrays of more than {max_bytes} bytes")
    message = inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise TypeError("parts that are no message")
    message.metadata.__dict__["_message_id"] = message_id
    return message


def _parts(tree: Any) -> Iterator[str]:
    """Ids of a tree's nodes, without recursion."""
    left, seen = [tree], 0
    while left:
        node = left.pop()
        seen += 1
        if seen > MAX_OBJECTS:
            raise TooLargeError(f"a reply of more than {MAX_OBJECTS} parts")
        left.extend(node.children)
        yield node.object_id
