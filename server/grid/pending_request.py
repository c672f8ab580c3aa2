"""Messages to several sites: sent, awaited, sent again where a site was lost with one, and given up at the deadline.

Replies are fetched piece by piece, within a size, each at the cost of its sender. Flower's own `pull_messages` fetches
all replies in one go. There, a reply whose announced objects are missing delays the others for up to two hours. A reply
that cannot be put together ends them all. Nothing limits their size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message
from flwr.serverapp import Grid

from moretta.server.grid.site_grid import LOST, REFUSED, SiteGrid, Traffic, superlink_errors
from moretta.shared.core import flower_private
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable
from moretta.shared.messages.message import SHOWN
from moretta.shared.messages.wire import packed, unpacked

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.25
LOCAL_PAUSE_SECONDS = 0.02
"""Longest pause between looks within this process, where a look costs next to nothing."""
LOOK_SECONDS = 1.0
"""Seconds between looks at which nodes are there."""
OUTAGE_SECONDS = 5.0
"""A longer call to the SuperLink counts as an outage, during which no site could send a sign of life."""
PATIENCE_SECONDS = 120.0
"""How long sites have after an outage to come back, before a lost one counts as lost."""
RESEND_SECONDS, RESEND_AFTER_OUTAGE_SECONDS, RESEND_FACTOR = 120.0, 30.0, 4.0
"""A site that is there and has not responded for so long gets the message again, and later once more: Flower's
SuperNode drops a reply that it could not send. Sites respond alike to the same request and spend nothing twice."""
MAX_TRIES = 4
"""Most losses of a site with one message: a message that ends the site's process would end every new one, too."""
MAX_OBJECTS = 20_000
"""Parts of one reply, as Flower takes it apart: an array has one for each 5 MB, and each record and array is one."""
_AT_ONCE = 4
"""Parts that are requested in one call."""
_WORKERS = 2
_CODES = flower_private.ErrorCode
_LOST_CODES = frozenset(
    (_CODES.MESSAGE_UNAVAILABLE, _CODES.REPLY_MESSAGE_UNAVAILABLE, _CODES.NODE_UNAVAILABLE, _CODES.CLIENT_APP_CRASHED)
)
"""Flower's errors that mean that a site is away, and not that it refused."""


class TooLargeError(ValueError):
    """A reply has more bytes or parts than its kind can have."""


@dataclass
class FetchedReply:
    """A reply that was announced, the parts of it that are there, and in the end its message or why there is none."""

    to: str
    """Id of the message that it replies to; it and the node that it is from are as Flower's SuperLink has them."""
    source: int
    message_id: str
    message: Message | None = None
    problem: str = ""
    """The reason why there is no message; empty while one may come, and once it is there."""
    lost: bool = False
    """Whether it was lost on the way; nothing is wrong with its content."""
    missing: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    @property
    def over(self) -> bool:
        """Nothing of it is to come any more."""
        return self.message is not None or bool(self.problem)


class ReplyFetcher:
    """Fetches the replies to the messages of one request; one of more than `max_bytes` is given up as soon as seen."""

    def __init__(self, grid: Grid, *, max_bytes: int) -> None:
        self._grid: Any = grid
        self._client: Any = flower_private.runtime_client(grid)
        self._max_bytes = max_bytes
        self._announced: list[FetchedReply] = []

    @property
    def remote(self) -> bool:
        """Whether replies come from another process."""
        return self._client is not None

    def look(self, message_ids: Sequence[str]) -> list[FetchedReply]:
        """Replies to these messages that are whole by now, or cannot come any more. Does not wait."""
        if self._client is None:  # a grid within this process: its messages are whole
            found = [(m.metadata, m) for m in self._grid.pull_messages(list(message_ids))]
            return [FetchedReply(meta.reply_to_message_id, meta.src_node_id, meta.message_id, m) for meta, m in found]
        wanted = set(message_ids)
        # The SuperLink forgets a message once its reply is announced: pulled again, it would call the message lost.
        new = sorted(wanted - {announced.to for announced in self._announced})
        self._announced = [announced for announced in self._announced if announced.to in wanted]
        if new:
            self._announced += self._newly_announced(new)
        for announced in self._announced:
            if not announced.over:
                self._fetch(announced)
        over = [announced for announced in self._announced if announced.over]
        self._announced = [announced for announced in self._announced if not announced.over]
        return over

    def _newly_announced(self, message_ids: list[str]) -> Iterator[FetchedReply]:
        """New replies; those of too many parts are refused at once."""
        response = self._client.PullMessages(flower_private.PullAppMessagesRequest(message_ids=message_ids))
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            meta = proto.metadata
            new = FetchedReply(meta.reply_to_message_id, meta.src_node_id, meta.message_id)
            try:
                new.missing = list(dict.fromkeys(_parts(tree)))
            except TooLargeError as error:
                new.problem = str(error)
                self._confirm(new)
            yield new

    def _fetch(self, announced: FetchedReply) -> None:
        """Fetch the parts that are there, and put the reply together once all are."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            while announced.missing:
                batch = announced.missing[:_AT_ONCE]
                for part, response in zip(batch, pool.map(self._part, batch), strict=True):
                    if not response.object_found:
                        announced.problem, announced.lost = "parts of its reply were not sent in time", True
                        return
                    if not response.object_available:
                        return
                    announced.missing.remove(part)
                    announced.contents[part] = response.object_content
                    announced.size += len(response.object_content)
                    if announced.size > self._max_bytes:
                        self._confirm(announced)
                        announced.problem = f"a reply of more than {self._max_bytes} bytes"
                        return
        self._confirm(announced)
        try:
            announced.message = put_together(announced.message_id, announced.contents, self._max_bytes)
        except TooLargeError as error:
            announced.problem = str(error)
        except Exception as error:  # whatever its parts are, they must cost nobody else's reply
            announced.problem = f"a reply that cannot be read ({type(error).__name__})"

    def _part(self, object_id: str) -> Any:
        request = flower_private.PullObjectRequest(
            node=self._grid.node, run_id=self._grid.run.run_id, object_id=object_id
        )
        return self._client.PullObject(request)

    def _confirm(self, announced: FetchedReply) -> None:
        """Let the SuperLink forget the parts."""
        request = flower_private.ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=announced.message_id
        )
        self._client.ConfirmMessageReceived(request)


def put_together(message_id: str, contents: dict[str, bytes], max_bytes: int) -> Message:
    """A message from its parts; raises many kinds of errors where they do not make one.

    TooLargeError: an array names one part many times, so that the whole would be larger than `max_bytes`.
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


class PendingRequest:
    """One message a site, and the replies so far. It is sent once."""

    def __init__(self, grid: SiteGrid, sent: list[Message], *, retry: bool) -> None:
        self._grid, self._retry = grid, retry
        self._messages = {grid.nodes[message.metadata.dst_node_id]: message for message in sent}
        limits = [grid.responses[message.metadata.message_type].max_bytes() for message in sent]
        self._fetcher = ReplyFetcher(grid.grid, max_bytes=max(limits, default=0))
        self._replies: dict[str, Message] = {}
        self._open: dict[str, str] = {}
        """Message id -> site."""
        self._away: dict[str, str] = {}
        """Lost site, which gets the message again when it is back -> the reason of the loss."""
        self._losses: Counter[str] = Counter()
        self._first_sent: dict[str, float] = {}
        self._started: dict[str, str] = {}
        """When a site's node was last started, as of when the message was sent."""
        self._patient_until = float("-inf")
        self._resend_after = RESEND_SECONDS
        self._resend_at = grid.clock() + RESEND_SECONDS

    def replies(self, seconds: float) -> list[Message]:
        """Send and wait; one reply of each site, in order of names."""
        clock, pause = self._grid.clock, FIRST_PAUSE_SECONDS
        end, look = clock() + seconds, clock() + LOOK_SECONDS
        self._drop_gone(self._messages)
        self._send([site for site in self._messages if site not in self._replies])
        while (self._open or self._away) and clock() < end:
            if self._open:
                self._take_replies()
            if clock() >= look:
                self._look_around()
                look = clock() + LOOK_SECONDS
            if self._open or self._away:
                self._grid.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS if self._fetcher.remote else LOCAL_PAUSE_SECONDS)
        for site in self._messages.keys() - self._replies.keys():
            self._settle(site, Error(LOST, self._away.get(site, f"no response within {seconds:.0f} s")))
        return [self._replies[site] for site in sorted(self._messages)]

    def _send(self, sites: list[str]) -> None:
        if not sites:
            return
        wanted = [self._messages[site] for site in sorted(sites)]
        new = [Message(packed(m.content), m.metadata.dst_node_id, m.metadata.message_type) for m in wanted]
        self._started.update(self._sites_there())
        with superlink_errors():
            ids = list(self._grid.grid.push_messages(new))
        self._grid.on_sent()
        if len(ids) != len(new):
            call = new[0].metadata.message_type
            raise RunError(f"Flower took {len(ids)} of {len(new)} messages of {call}", expected="all")
        for site, number, message in zip(sorted(sites), ids, new, strict=True):
            self._away.pop(site, None)
            self._first_sent.setdefault(site, self._grid.clock())
            self._traffic(site).sent += _size(message)
            if number:
                self._open[number] = site
            else:
                self._settle(site, Error(LOST, "Flower took no message for it"))

    def _take_replies(self) -> None:
        clock, note = self._grid.clock, self._grid.note
        start = clock()
        with superlink_errors():
            replies = self._fetcher.look(list(self._open))
        if clock() - start > OUTAGE_SECONDS:
            note(f"Flower's SuperLink was away for {clock() - start:.0f} s")
            self._patient_until = clock() + PATIENCE_SECONDS
            self._resend_at = min(self._resend_at, clock() + RESEND_AFTER_OUTAGE_SECONDS)
        for fetched in replies:
            site = self._open.get(fetched.to)
            if site is None or site in self._replies:
                continue
            by_flower = fetched.message is None or fetched.message.has_error()
            if not by_flower and fetched.source != self._messages[site].metadata.dst_node_id:
                note(f"{site}: a reply in its name came from another node, and was passed over")
                continue
            del self._open[fetched.to]
            if fetched.message is not None and not by_flower:
                self._traffic(site).received += fetched.size or _size(fetched.message)
            self._take(site, fetched)

    def _take(self, site: str, fetched: FetchedReply) -> None:
        message, problem, lost = fetched.message, fetched.problem, fetched.lost
        if message is not None and message.has_error():
            code, reason = message.error.code, printable(message.error.reason, most=SHOWN)
            lost = code in _LOST_CODES
            problem = f"it was lost ({reason})" if lost else f"Flower error {code}: {reason}"
            message = None
        if lost:
            self._lose(site, problem)
        else:
            self._settle(site, Error(REFUSED, problem) if message is None else message)

    def _look_around(self) -> None:
        """Which sites are gone for good, which came back, and which were started anew and lost the message."""
        self._drop_gone({*self._open.values(), *self._away})
        there = self._sites_there()
        for site in list(self._open.values()):
            if site in there and there[site] != self._started.get(site, there[site]):
                self._drop(site)
                self._lose(site, "it was started anew before it responded", back=True)
        self._send([site for site in self._away if site in there])
        if self._grid.clock() >= self._resend_at:
            self._resend_after *= RESEND_FACTOR
            self._resend_at = self._grid.clock() + self._resend_after
            self._send([site for site in set(self._open.values()) if site in there])

    def _sites_there(self) -> dict[str, str]:
        """When the node of each site that is there was started."""
        names = self._grid.nodes
        return {names[node]: started for node, started in self._grid.online().items() if node in names}

    def _drop_gone(self, sites: Iterable[str]) -> None:
        gone = self._grid.gone()
        for site in gone.keys() & set(sites):
            self._settle(site, Error(LOST, gone[site]))

    def _lose(self, site: str, why: str, *, back: bool = False) -> None:
        """A site was lost with a message: it gets it again, or the study goes on without it, as the study says."""
        self._losses[site] += 1
        patient = back or self._retry or self._grid.clock() < self._patient_until
        if patient and self._losses[site] < MAX_TRIES:
            self._away[site] = why
            self._grid.note(f"{site}: {why}; the request is sent again when it is back")
        else:
            self._grid.note(f"{site}: {why}; this goes on without it")
            self._settle(site, Error(LOST, why))

    def _settle(self, site: str, reply: Message | Error) -> None:
        """The reply counts as the site's own, whatever its head says."""
        sent = self._messages[site]
        try:
            made = Message(unpacked(reply.content) if isinstance(reply, Message) else reply, reply_to=sent)
        except Exception as error:  # Flower's own objects, as a site made them
            made = Message(Error(REFUSED, f"a reply that cannot be read ({type(error).__name__})"), reply_to=sent)
        if site not in self._replies and site in self._first_sent:
            self._traffic(site).seconds += self._grid.clock() - self._first_sent[site]
        self._replies.setdefault(site, made)
        self._away.pop(site, None)
        self._drop(site)

    def _traffic(self, site: str) -> Traffic:
        return self._grid.traffic.setdefault(site, Traffic())

    def _drop(self, site: str) -> None:
        self._open = {number: each for number, each in self._open.items() if each != site}


def _size(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.values())
