"""Messages to several sites: sent, awaited, sent again where a site was lost with one, and given up at the deadline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flwr.app import Error, Message

from moretta.server.grid.reply_fetcher import FetchedReply, ReplyFetcher
from moretta.server.grid.site_grid import LOST, REFUSED, SiteGrid, superlink_errors
from moretta.shared import messages
from moretta.shared.core import flower_private
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
LOOK_SECONDS = 1.0
"""Between looks at which nodes are there."""
OUTAGE_SECONDS = 5.0
"""A call to the SuperLink that took longer met an outage, in which no site could show that it lives."""
PATIENCE_SECONDS = 120.0
"""How long sites have after an outage to come back, before a lost one counts as lost."""
RESEND_SECONDS, RESEND_AFTER_OUTAGE_SECONDS, RESEND_FACTOR = 120.0, 30.0, 4.0
"""A site that is there and has not responded for so long gets the message again, and later once more: Flower's
SuperNode drops a reply that it could not send. Sites respond alike to the same request and spend nothing twice."""
MAX_TRIES = 4
"""How often a site may be lost with one message: a process that dies on it would die for ever."""


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
        """Site that gets the message again when it is back -> why it was lost."""
        self._losses: Counter[str] = Counter()
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
            self._take_replies()
            if clock() >= look:
                self._look_around()
                look = clock() + LOOK_SECONDS
            if self._open or self._away:
                self._grid.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        for site in self._messages.keys() - self._replies.keys():
            self._settle(site, Error(LOST, self._away.get(site, f"no response within {seconds:.0f} s")))
        return [self._replies[site] for site in sorted(self._messages)]

    def _send(self, sites: list[str]) -> None:
        if not sites:
            return
        wanted = [self._messages[site] for site in sorted(sites)]
        new = [Message(m.content, m.metadata.dst_node_id, m.metadata.message_type) for m in wanted]
        self._started.update(self._sites_there())
        with superlink_errors():
            ids = list(self._grid.push_messages(new))
        if len(ids) != len(new):
            call = new[0].metadata.message_type
            raise RunError(f"Flower took {len(ids)} of {len(new)} messages of {call}", expected="all")
        for site, number in zip(sorted(sites), ids, strict=True):
            self._away.pop(site, None)
            if number:
                self._open[number] = site
            else:
                self._settle(site, Error(LOST, "Flower took no message for it"))

    def _take_replies(self) -> None:
        if not self._open:
            return
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
            self._take(site, fetched)

    def _take(self, site: str, fetched: FetchedReply) -> None:
        message = fetched.message
        if message is None:
            if fetched.lost:
                self._lose(site, fetched.problem)
            else:
                self._settle(site, Error(REFUSED, fetched.problem))
        elif message.has_error():
            code, reason = message.error.code, printable(message.error.reason, most=messages.SHOWN)
            if code in _lost_codes():
                self._lose(site, f"it was lost ({reason})")
            else:
                self._settle(site, Error(REFUSED, f"Flower error {code}: {reason}"))
        else:
            self._settle(site, message)

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
        if isinstance(reply, Message):
            try:
                made = Message(reply.content, reply_to=sent)
            except Exception as error:  # Flower's own objects, as a site made them
                made = Message(Error(REFUSED, f"a reply that cannot be read ({type(error).__name__})"), reply_to=sent)
        else:
            made = Message(reply, reply_to=sent)
        self._replies.setdefault(site, made)
        self._away.pop(site, None)
        self._drop(site)

    def _drop(self, site: str) -> None:
        self._open = {number: each for number, each in self._open.items() if each != site}


def _lost_codes() -> frozenset[int]:
    """Flower's errors that mean that a site is away, and not that it refused."""
    codes = flower_private.ErrorCode
    return frozenset(
        {
            codes.MESSAGE_UNAVAILABLE,
            codes.REPLY_MESSAGE_UNAVAILABLE,
            codes.NODE_UNAVAILABLE,
            codes.CLIENT_APP_CRASHED,
        }
    )
