"""Ask sites and hear them: every call ends with an answer, a named failure or a deadline. Nothing waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from moretta.server.grid.pending_request import Content, PendingRequest, SiteResponse, superlink_errors
from moretta.shared.messages import RESPONSES, Message

if TYPE_CHECKING:
    from flwr.serverapp import Grid


def _nobody() -> Mapping[str, str]:
    return {}


def _ignored(text: str) -> None:
    del text


@dataclass
class SiteGrid:
    """Talks to the sites of one run. Sites are known by name; answers come in order of names."""

    grid: Grid
    deadline_seconds: float
    nodes: dict[int, str] = field(default_factory=dict)
    """Node id -> site name, filled by the greeting."""
    on_lost_site: Literal["continue", "retry"] = "continue"
    gone: Callable[[], Mapping[str, str]] = _nobody
    """Sites that are not asked and not waited for any more, with the reason, such as a revoked certificate."""
    note: Callable[[str], None] = _ignored
    """Told in words when a site is lost or asked again."""
    responses: Mapping[str, type[Message]] = field(default_factory=lambda: RESPONSES)
    """What sites may send back, by the name of the call: anything else is a failure of that site."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(self.nodes.values())

    def online(self) -> set[int]:
        """Ids of the nodes that are there, whether or not they take part.

        Raises:
            SuperLinkLostError: Flower's SuperLink is gone, or has ended this run.
        """
        with superlink_errors():
            return set(self.grid.get_node_ids())

    def ask(
        self,
        call: str,
        content: Content,
        *,
        sites: Iterable[str] | None = None,
        deadline_seconds: float | None = None,
        on_lost_site: Literal["continue", "retry"] | None = None,
    ) -> list[SiteResponse]:
        """Send one message to each site and collect the answers until all are there or the deadline has passed.

        Args:
            call: name of the call.
            content: what a site is asked, by its name.
            sites: whom to ask; None asks all.
            deadline_seconds: for this question, where it differs.
            on_lost_site: for this question, where it differs.

        Raises:
            SuperLinkLostError: Flower's SuperLink is gone, or has ended this run.
        """
        wanted = self.sites if sites is None else sorted(set(sites) & set(self.nodes.values()))
        pending = PendingRequest(
            self,
            call,
            content,
            deadline_seconds=deadline_seconds or self.deadline_seconds,
            retry=(on_lost_site or self.on_lost_site) == "retry",
        )
        return pending.responses(wanted)
