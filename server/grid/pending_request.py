"""One question to several sites: sent, awaited, sent again where a site was lost with it, and given up at the deadline.

Flower's own `send_and_receive` looks for answers every three seconds and knows no second try.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from moretta.server.grid.reply_fetcher import Reply, ReplyFetcher
from moretta.shared import messages
from moretta.shared.core.errors import MessageError, ReleaseError, RunError
from moretta.shared.core.printable import printable
from moretta.shared.messages import failure_of

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

    from moretta.server.grid.site_grid import SiteGrid

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
LOOK_SECONDS = 1.0
"""Between looks at which nodes are there."""
OUTAGE_SECONDS = 5.0
"""A call to the SuperLink that took longer met an outage, in which no site could show that it lives."""
PATIENCE_SECONDS = 120.0
"""How long sites have after an outage to come back, before a lost one counts as lost."""
RESEND_SECONDS, RESEND_AFTER_OUTAGE_SECONDS, RESEND_FACTOR = 120.0, 30.0, 4.0
"""Who is there and has not answered for so long is asked again, and again after a longer time: Flower's SuperNode gives
up an answer that it could not send, and tells nobody. Sites answer alike, one question after the other, and spend
nothing twice."""
MAX_TRIES = 4
"""How often a site may be lost with one question: a process that dies on it would die for ever."""

Content = Callable[[str], "RecordDict"]
"""What a site is asked, by its name."""


class SuperLinkLostError(RunError):
    """Flower's SuperLink is gone, or has ended this run. The study may go on in a new run, from its last checkpoint."""


M = TypeVar("M", bound=messages.Message)


@dataclass(frozen=True, slots=True)
class SiteResponse:
    """One site's answer, checked, or why there is none."""

    site: str
    content: RecordDict | None
    """As it came: for its arrays, which are checked where it is known what they must be."""
    failure: str = ""
    lost: bool = False
    """The site gave no answer at all: it is away, and did not refuse."""
    message: messages.Message | None = None
    """Everything else in it."""

    def of(self, kind: type[M]) -> M:
        """The message, which is of the kind that its call has.

        Raises:
            ReleaseError: there is none; the reason is the site's failure.
        """
        if self.message is None:
            raise ReleaseError(self.failure or "a response that nobody has read")
        if not isinstance(self.message, kind):
            raise TypeError(f"{type(self.message).__name__} where {kind.__name__} is looked for")
        return self.message


class PendingRequest:
    """One question on its way. It is asked once."""

    def __init__(
        self, site_grid: SiteGrid, call: str, content: Content, *, deadline_seconds: float, retry: bool
    ) -> None:
        self._site_grid, self._call, self._content = site_grid, call, content
        self._seconds, self._retry = deadline_seconds, retry
        self._kind = site_grid.responses[call]
        self._fetcher = ReplyFetcher(site_grid.grid, max_bytes=self._kind.max_bytes())
        self._nodes = {site: node for node, site in site_grid.nodes.items()}
        self._responses: dict[str, SiteResponse] = {}
        self._open: dict[str, str] = {}
        """Message id -> site."""
        self._away: dict[str, str] = {}
        """Site that will be asked again when it is back -> why it was lost."""
        self._losses: Counter[str] = Counter()
        self._activated: dict[str, str] = {}
        """When a site's node was last started, as told when it was asked."""
        self._patient_until = float("-inf")
        self._resend_after = RESEND_SECONDS
        self._resend_at = site_grid.clock() + RESEND_SECONDS

    def responses(self, sites: list[str]) -> list[SiteResponse]:
        """Ask and wait; one answer for each site, in order of names."""
        clock, pause = self._site_grid.clock, FIRST_PAUSE_SECONDS
        end = clock() + self._seconds
        look = clock() + LOOK_SECONDS
        gone = self._site_grid.gone()
        for site in sorted(gone.keys() & set(sites)):
            self._settle(SiteResponse(site, None, gone[site], lost=True))
        self._send([site for site in sites if site not in gone])
        while (self._open or self._away) and clock() < end:
            self._take_replies()
            if clock() >= look:
                self._look_around()
                look = clock() + LOOK_SECONDS
            if self._open or self._away:
                self._site_grid.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        for site in sites:
            if site not in self._responses:
                why = self._away.get(site, f"no answer within {self._seconds:.0f} s")
                self._settle(SiteResponse(site, None, why, lost=True))
        return [self._responses[site] for site in sorted(sites)]

    def _send(self, sites: list[str]) -> None:
        from flwr.app import Message

        if not sites:
            return
        messages = [
            Message(content=self._content(site), message_type=self._call, dst_node_id=self._nodes[site])
            for site in sites
        ]
        self._activated.update(self._activations())
        with superlink_errors():
            ids = list(self._site_grid.grid.push_messages(messages))
        if len(ids) != len(messages):
            raise RunError(f"Flower took {len(ids)} of {len(messages)} messages of {self._call}", expected="all")
        for site, number in zip(sites, ids, strict=True):
            self._away.pop(site, None)
            if number:
                self._open[number] = site
            else:
                self._settle(SiteResponse(site, None, "Flower took no message for it", lost=True))

    def _take_replies(self) -> None:
        if not self._open:
            return
        clock = self._site_grid.clock
        start = clock()
        with superlink_errors():
            replies = self._fetcher.look(list(self._open))
        if clock() - start > OUTAGE_SECONDS:
            self._site_grid.note(f"Flower's SuperLink was away for {clock() - start:.0f} s")
            self._patient_until = clock() + PATIENCE_SECONDS
            self._resend_at = min(self._resend_at, clock() + RESEND_AFTER_OUTAGE_SECONDS)
        for reply in replies:
            site = self._open.get(reply.to)
            if site is None or site in self._responses:
                continue
            from_flower = reply.message is None or reply.message.has_error()
            if not from_flower and reply.source != self._nodes[site]:
                self._site_grid.note(f"{site}: a reply in its name came from another node, and was passed over")
                continue
            del self._open[reply.to]
            self._take(site, reply)

    def _take(self, site: str, reply: Reply) -> None:
        message = reply.message
        if message is None:
            if reply.lost:
                self._lose(site, reply.problem)
            else:
                self._settle(SiteResponse(site, None, reply.problem))
        elif message.has_error() and message.error.code in _lost_codes():
            self._lose(site, f"it was lost ({printable(message.error.reason, most=messages.SHOWN)})")
        else:
            self._settle(_checked_response(site, message, self._kind))

    def _look_around(self) -> None:
        """Which sites are gone for good, which came back, and which were started anew and lost the question."""
        gone = self._site_grid.gone()
        for site in sorted(gone.keys() & {*self._open.values(), *self._away}):
            self._settle(SiteResponse(site, None, gone[site], lost=True))
        started = self._activations()
        for site in list(self._open.values()):
            if site in started and started[site] != self._activated.get(site, started[site]):
                self._drop(site)
                self._lose(site, "it was started anew while it was asked", back=True)
        self._send([site for site in sorted(self._away) if site in started])
        if self._site_grid.clock() >= self._resend_at:
            self._resend_after *= RESEND_FACTOR
            self._resend_at = self._site_grid.clock() + self._resend_after
            self._send([site for site in sorted(set(self._open.values())) if site in started])

    def _activations(self) -> dict[str, str]:
        """When the node of each site that is there was started."""
        names = self._site_grid.nodes
        with superlink_errors():
            nodes = list(self._site_grid.grid.get_nodes())
        return {names[node.node_id]: node.last_activated_at for node in nodes if node.node_id in names}

    def _lose(self, site: str, why: str, *, back: bool = False) -> None:
        """A site was lost with the question: it is asked again, or done without, as the study says."""
        self._losses[site] += 1
        patient = back or self._retry or self._site_grid.clock() < self._patient_until
        if patient and self._losses[site] < MAX_TRIES:
            self._away[site] = why
            self._site_grid.note(f"{site}: {why}; it is asked again when it is back")
        else:
            self._site_grid.note(f"{site}: {why}; this goes on without it")
            self._settle(SiteResponse(site, None, why, lost=True))

    def _settle(self, response: SiteResponse) -> None:
        self._responses.setdefault(response.site, response)
        self._away.pop(response.site, None)
        self._drop(response.site)

    def _drop(self, site: str) -> None:
        self._open = {number: each for number, each in self._open.items() if each != site}


@contextmanager
def superlink_errors() -> Iterator[None]:
    """Turns what Flower raises when its SuperLink is gone into `SuperLinkLostError`."""
    import httpx
    from flwr.supercore.run import RunNotRunningException

    try:
        yield
    except (httpx.HTTPError, RunNotRunningException) as error:
        raise SuperLinkLostError(f"the link to Flower's SuperLink was lost: {type(error).__name__}: {error}") from error


def _lost_codes() -> frozenset[int]:
    """Flower's errors that tell of a site's absence, and not of its refusal."""
    from flwr.common.constant import ErrorCode

    return frozenset(
        {
            ErrorCode.MESSAGE_UNAVAILABLE,
            ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
            ErrorCode.NODE_UNAVAILABLE,
            ErrorCode.CLIENT_APP_CRASHED,
        }
    )


def _checked_response(site: str, reply: Message, kind: type[messages.Message]) -> SiteResponse:
    if reply.has_error():
        return SiteResponse(
            site, None, f"Flower error {reply.error.code}: {printable(reply.error.reason, most=messages.SHOWN)}"
        )
    try:
        content = reply.content
        failure = failure_of(content)
        if failure is not None:
            return SiteResponse(site, None, f"{failure} (see the site's own log)")
        return SiteResponse(site, content, message=messages.read(kind, content))
    except MessageError as error:
        return SiteResponse(site, None, error.message)
    except Exception as error:  # Flower's own objects, as a site made them
        return SiteResponse(site, None, f"an answer that cannot be read ({type(error).__name__})")
