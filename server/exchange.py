"""Ask sites and hear them: every call ends with an answer, a named failure or a deadline. Nothing waits for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moretta.shared import wire
from moretta.shared.errors import MorettaError, RunError

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

_POLL_SECONDS = 0.1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One site's answer: its content, or why there is none."""

    site: str
    content: RecordDict | None
    failure: str = ""


@dataclass
class Exchange:
    """Talks to the sites of one run. Sites are known by name; answers come in order of names."""

    grid: Grid
    deadline_seconds: float
    nodes: dict[int, str] = field(default_factory=dict)
    """Node id -> site name, filled by `greet`."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(self.nodes.values())

    def greet(self, expected: int) -> dict[str, RecordDict]:
        """Wait until `expected` sites are there, and learn their names.

        Raises:
            RunError: too few came before the deadline, one did not answer or has no usable name, or two have one name.
        """
        end = self.clock() + self.deadline_seconds
        while len(ids := sorted(self.grid.get_node_ids())) < expected:
            if self.clock() > end:
                raise RunError(
                    f"{len(ids)} sites came within {self.deadline_seconds:.0f} s",
                    expected=f"{expected}",
                    fix="start the missing sites, or lower the number of sites in the study",
                )
            self.sleep(_POLL_SECONDS)
        self.nodes = {node: f"node-{node}" for node in ids}
        answers = self.ask(wire.HELLO, lambda _: _empty())
        greeted = {a.site: a.content for a in answers if a.content is not None}
        failures = [a for a in answers if a.content is None]
        if failures:
            raise RunError(
                f"{len(failures)} of {len(ids)} sites did not answer the greeting: {failures[0].failure}",
                expected="every site to answer",
                fix="look into the log of that site",
            )
        renamed = {old: _name(content) for old, content in greeted.items()}
        if len(set(renamed.values())) != len(renamed):
            raise RunError("two sites have one name", expected="each name once")
        self.nodes = {node: renamed[self.nodes[node]] for node in ids}
        return {renamed[old]: content for old, content in greeted.items()}

    def ask(self, call: str, content: Callable[[str], RecordDict], *, sites: list[str] | None = None) -> list[Answer]:
        """Send one message to each site and collect the answers until all are there or the deadline has passed."""
        from flwr.app import Message

        wanted = set(self.sites if sites is None else sites)
        messages = [
            Message(content=content(site), message_type=call, dst_node_id=node)
            for node, site in sorted(self.nodes.items(), key=lambda item: item[1])
            if site in wanted
        ]
        replies = self.grid.send_and_receive(messages, timeout=self.deadline_seconds)
        return self.sorted_answers(replies, wanted)

    def sorted_answers(self, replies: Any, wanted: set[str]) -> list[Answer]:
        """One answer for each wanted site, in order of names; the first counts where a site answered twice."""
        answers: dict[str, Answer] = {}
        for reply in replies:
            site = self.nodes.get(reply.metadata.src_node_id)
            if site is not None and site in wanted and site not in answers:
                answers[site] = _answer(site, reply)
        for site in wanted - answers.keys():
            answers[site] = Answer(site, None, f"no answer within {self.deadline_seconds:.0f} s")
        return [answers[site] for site in sorted(answers)]


def _answer(site: str, reply: Message) -> Answer:
    if reply.has_error():
        return Answer(site, None, f"Flower error {reply.error.code}: {reply.error.reason}")
    content = reply.content
    try:
        if "failure" in content[wire.CONFIG]:
            failure = wire.from_config(content, "failure")
            return Answer(site, None, f"{failure} (see the site's own log)")
    except (KeyError, MorettaError):
        return Answer(site, None, "an answer that cannot be read")
    return Answer(site, content)


def _name(content: RecordDict) -> str:
    """A site's name as it gives it. Releases are kept in a folder of that name, so it must be a plain one."""
    try:
        name = wire.from_config(content, "site")
    except MorettaError as error:
        raise RunError(f"a site without a name: {error}", fix="look into the log of that site") from error
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RunError(
            f"a site of the name {str(name)[:80]!r}", expected="up to 64 letters, digits, dots, dashes and underscores"
        )
    return name


def _empty() -> RecordDict:
    from flwr.app import RecordDict

    return RecordDict({wire.CONFIG: wire.json_config(version=1)})
