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

from flwr.app import Message

from moretta.shared.core import flower_private

if TYPE_CHECKING:
    from flwr.serverapp import Grid

MAX_OBJECTS = 20_000
"""Parts of one reply, as Flower takes it apart: an array has one for each 5 MB, and each record and array is one."""
_AT_ONCE = 4
"""Parts that are requested before it is checked whether they were there."""
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class FetchedReply:
    """A reply that came, or that cannot come any more."""

    to: str
    """Id of the message that it replies to, as Flower's SuperLink has it."""
    source: int
    """The node that it is from, as Flower's SuperLink has it."""
    message: Message | None
    problem: str = ""
    """Why there is no message."""
    lost: bool = False
    """It went lost on the way; nothing is wrong with its content."""


class TooLargeError(ValueError):
    """A reply has more bytes or parts than its kind can have."""


@dataclass
class _Announced:
    """A reply that is announced, and the parts of it that are there."""

    to: str
    source: int
    message_id: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    def end(self, problem: str, *, lost: bool = False) -> FetchedReply:
        return FetchedReply(self.to, self.source, None, problem, lost)


class ReplyFetcher:
    """Fetches the replies to the messages of one request.

    Args:
        grid: Flower's.
        max_bytes: of one reply; a larger one is given up as soon as that is seen.
    """

    def __init__(self, grid: Grid, *, max_bytes: int) -> None:
        self._grid: Any = grid
        self._client: Any = flower_private.runtime_client(grid)
        self._max_bytes = max_bytes
        self._announced: list[_Announced] = []

    def look(self, message_ids: Sequence[str]) -> list[FetchedReply]:
        """Replies to these messages that are whole by now. Does not wait.

        Raises:
            httpx.HTTPError: the SuperLink does not respond.
        """
        if self._client is None:  # a grid within this process: its messages are whole
            found = self._grid.pull_messages(list(message_ids))
            return [FetchedReply(m.metadata.reply_to_message_id, m.metadata.src_node_id, m) for m in found]
        wanted = set(message_ids)
        # The SuperLink forgets a message once its reply is announced: pulled again, it would call the message lost.
        replies = list(self._newly_announced(wanted - {announced.to for announced in self._announced}))
        self._announced = [announced for announced in self._announced if announced.to in wanted]
        for announced in list(self._announced):
            reply = self._fetched(announced)
            if reply is not None:
                self._announced.remove(announced)
                replies.append(reply)
        return replies

    def _newly_announced(self, message_ids: Collection[str]) -> Iterator[FetchedReply]:
        """Take note of new replies; yields those that are refused at once."""
        if not message_ids:
            return
        request = flower_private.PullAppMessagesRequest(message_ids=sorted(message_ids))
        response = self._client.PullMessages(request)
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            meta = proto.metadata
            new = _Announced(meta.reply_to_message_id, meta.src_node_id, meta.message_id, [])
            try:
                new.missing = list(dict.fromkeys(_parts(tree)))
            except TooLargeError as error:
                self._confirm(new)
                yield new.end(str(error))
            else:
                self._announced.append(new)

    def _fetched(self, announced: _Announced) -> FetchedReply | None:
        """The reply if it is whole, or cannot be; None while parts are on their way."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            while announced.missing:
                batch = announced.missing[:_AT_ONCE]
                for part, response in zip(batch, pool.map(self._part, batch), strict=True):
                    if not response.object_found:
                        return announced.end("parts of its reply were not sent in time", lost=True)
                    if not response.object_available:
                        return None
                    announced.missing.remove(part)
                    announced.contents[part] = response.object_content
                    announced.size += len(response.object_content)
                    if announced.size > self._max_bytes:
                        self._confirm(announced)
                        return announced.end(f"a reply of more than {self._max_bytes} bytes")
        self._confirm(announced)
        try:
            message = put_together(announced.message_id, announced.contents, self._max_bytes)
        except TooLargeError as error:
            return announced.end(str(error))
        except Exception as error:  # whatever its parts are, they must cost nobody else's reply
            return announced.end(f"a reply that cannot be read ({type(error).__name__})")
        return FetchedReply(announced.to, announced.source, message)

    def _part(self, object_id: str) -> Any:
        request = flower_private.PullObjectRequest(
            node=self._grid.node, run_id=self._grid.run.run_id, object_id=object_id
        )
        return self._client.PullObject(request)

    def _confirm(self, announced: _Announced) -> None:
        """Let the SuperLink forget the parts."""
        request = flower_private.ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=announced.message_id
        )
        self._client.ConfirmMessageReceived(request)


def put_together(message_id: str, contents: dict[str, bytes], max_bytes: int) -> Message:
    """A message from its parts.

    Raises:
        TooLargeError: an array names one part many times, so that the whole would be larger than `max_bytes`.
        Exception: of many kinds, where the parts do not make a message.
    """
    if any(flower_private.get_object_id(content) != name for name, content in contents.items()):
        raise ValueError("a part that is not the one announced")
    whole = 0
    for content in contents.values():
        kind, children, length = flower_private.get_object_head_values_from_object_content(content)
        if kind != "Array":
            continue
        used = json.loads(content[len(content) - length :])["arraychunk_ids"]
        whole += sum(len(contents[children[index]]) for index in used)
        if whole > max_bytes:
            raise TooLargeError(f"arrays of more than {max_bytes} bytes")
    message = flower_private.inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise TypeError("parts that are no message")
    flower_private.set_message_id(message, message_id)
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
