"""Flower's Grid, addressed by site: every message ends with a reply, a failure with its site, or the deadline.

Flower's own `send_and_receive` looks for replies every three seconds, sends no message twice, and returns nothing for a
site that was lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from moretta.shared.core import flower_private
from moretta.shared.core.errors import MessageError, MorettaError, ReleaseError, RunError
from moretta.shared.core.printable import printable
from moretta.shared.messages.calls import RESPONSES, failure_of
from moretta.shared.messages.message import Message as SiteMessage
from moretta.shared.messages.message import read

_SHOWN = 1000
"""Characters of a reason that a report repeats."""
REFUSED, LOST = 0, 5
"""Codes of errors that stand for a reply, as Flower numbers them: unknown, and node unavailable."""

OnLostSite = Literal["continue", "retry"]
M = TypeVar("M", bound=SiteMessage)


class SuperLinkLostError(RunError):
    """Flower's SuperLink is gone, or has ended this run. The study may go on in a new run, from its last checkpoint."""


@dataclass(frozen=True, slots=True)
class SiteResponse:
    """One site's response, checked, or why there is none."""

    site: str
    content: RecordDict | None
    """Content as received. Its arrays are checked by the caller, who knows their shapes."""
    failure: str = ""
    lost: bool = False
    """The site did not respond at all: it is away, and did not refuse."""
    message: SiteMessage | None = None
    """Everything else in it."""

    def of(self, kind: type[M]) -> M:
        """The message, of the kind of its call; raises ReleaseError with the site's failure where there is none."""
        if self.message is None:
            raise ReleaseError(self.failure or "a response that nobody has read")
        if not isinstance(self.message, kind):
            raise TypeError(f"{type(self.message).__name__} where {kind.__name__} is expected")
        return self.message


@dataclass
class Traffic:
    """Time and bytes that one site has needed so far."""

    seconds: float = 0.0
    """Seconds from the first sending of each message until its reply was there."""
    sent: int = 0
    """Bytes of the messages to the site, as often as they were sent, before they are encrypted."""
    received: int = 0
    """Bytes of its replies."""


@dataclass
class SiteGrid(Grid):
    """Flower's Grid for one run, with sites known by name. Replies come in order of names."""

    grid: Grid
    deadline_seconds: float
    nodes: dict[int, str] = field(default_factory=dict)
    """Node id -> name of the sites that take part."""
    on_lost_site: OnLostSite = "continue"
    gone: Callable[[], Mapping[str, str]] = dict
    """Sites that may not take part any more, with the reason, such as a revoked certificate."""
    note: Callable[[str], None] = lambda _: None
    """Called with a sentence when a site is lost or gets a message again."""
    on_sent: Callable[[], None] = lambda: None
    """Called when messages are sent, so that sites' calls for messages need not wait."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """Traffic of all requests so far, by site."""
    responses: Mapping[str, type[SiteMessage]] = field(default_factory=lambda: RESPONSES)
    """Kind of the response to each call: anything else is a failure of that site."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(self.nodes.values())

    def get_node_ids(self) -> list[int]:
        """The nodes that take part, there or not at this moment: Flower's strategies sample from them."""
        return list(self.nodes)

    def online(self) -> dict[int, str]:
        """Nodes that are there, whether or not they take part, with the time at which each was last started."""
        with superlink_errors():
            return {node.node_id: node.last_activated_at for node in self.grid.get_nodes()}

    def request(
        self,
        call: str,
        content: Callable[[str], RecordDict],
        *,
        sites: Iterable[str] | None = None,
        deadline_seconds: float | None = None,
        on_lost_site: OnLostSite | None = None,
    ) -> list[SiteResponse]:
        """Send one message to each site, or to all, and wait until all have responded or the deadline has passed.

        `content` gives the message to a site, by its name. Deadline and loss are handled as this grid says by default.
        Raises SuperLinkLostError where Flower's SuperLink is gone, or has ended this run.
        """
        wanted = set(self.nodes.values() if sites is None else sites)
        sent = [Message(content(site), node, call) for node, site in self.nodes.items() if site in wanted]
        replies = self.send_and_receive(sent, timeout=deadline_seconds, on_lost_site=on_lost_site)
        return [self.response(reply) for reply in replies]

    def response(self, reply: Message) -> SiteResponse:
        """A reply of `send_and_receive`, checked against what its call allows."""
        site = self.nodes[reply.metadata.src_node_id]
        if reply.has_error():
            return SiteResponse(site, None, reply.error.reason or "", lost=reply.error.code == LOST)
        try:
            failure = failure_of(reply.content)
            if failure is not None:
                return SiteResponse(site, None, f"{failure} (see the site's own log)")
            kind = self.responses[reply.metadata.message_type]
            return SiteResponse(site, reply.content, message=read(kind, reply.content))
        except MessageError as error:
            return SiteResponse(site, None, error.message)
        except Exception as error:  # Flower's own objects, as a site made them
            return SiteResponse(site, None, f"a response that cannot be read ({type(error).__name__})")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, on_lost_site: OnLostSite | None = None
    ) -> list[Message]:
        """One reply from each site that a message is for, in order of names; an error where a site gave none."""
        from moretta.server.grid.pending_request import PendingRequest

        retry = (on_lost_site or self.on_lost_site) == "retry"
        return PendingRequest(self, list(messages), retry=retry).replies(timeout or self.deadline_seconds)

    @property
    def run(self) -> flower_private.Run:
        """Passed on to the wrapped grid."""
        return self.grid.run

    def set_run(self, run: flower_private.Run) -> None:
        """Passed on to the wrapped grid."""
        self.grid.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Passed on to the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_nodes(self) -> Iterable[flower_private.NodeInfo]:
        """Passed on to the wrapped grid."""
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Passed on to the wrapped grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Passed on to the wrapped grid."""
        return self.grid.pull_messages(message_ids)


@contextmanager
def superlink_errors() -> Iterator[None]:
    """Turns what Flower raises when its SuperLink is gone into `SuperLinkLostError`."""
    import httpx

    try:
        yield
    except (httpx.HTTPError, flower_private.RunNotRunningException) as error:
        raise SuperLinkLostError(f"the link to Flower's SuperLink was lost: {type(error).__name__}: {error}") from error


@contextmanager
def noting_failure_of(site: str, failures: dict[str, str]) -> Iterator[None]:
    """Read what a site sent. An error in it is noted in `failures`, by site, and ends nothing else.

    Errors that are not about the site end the stage: a SuperLink that is gone, and a disk that is full.
    """
    try:
        yield
    except (SuperLinkLostError, OSError):
        raise
    except MorettaError as error:
        failures[site] = printable(error.message, most=_SHOWN) or type(error).__name__
    except Exception as error:  # no check is complete: what was not foreseen must cost no other site
        logging.getLogger(__name__).exception("what %s sent was not foreseen", site)
        failures[site] = f"what it sent cannot be used ({type(error).__name__})"
