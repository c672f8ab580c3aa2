"""The first words with the sites: who is there, under which name, and with which code.

Virtual sites tell their own names. A real site has the name that the registry knows its node by: it cannot take
another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moretta.server.grid.exchange import Exchange
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Hello

if TYPE_CHECKING:
    from flwr.app import RecordDict

_POLL_SECONDS = 0.1
_REAL_POLL_SECONDS = 0.5


def greet_virtual(exchange: Exchange, expected: int) -> dict[str, Hello]:
    """Wait until `expected` sites are there, and learn their names.

    Raises:
        RunError: too few came before the deadline, one did not answer or has no usable name, or two have one name.
    """
    ids = _awaited(exchange, expected)
    exchange.nodes = {node: f"node-{node}" for node in ids}
    answers = exchange.ask(wire.HELLO, lambda _: _empty())
    greeted = {a.site: a.of(Hello) for a in answers if a.message is not None}
    failures = [a for a in answers if a.message is None]
    if failures:
        raise RunError(
            f"{len(failures)} of {len(ids)} sites did not answer the greeting: {failures[0].failure}",
            expected="every site to answer",
            fix="look into the log of that site",
        )
    renamed = {old: hello.site for old, hello in greeted.items()}
    if len(set(renamed.values())) != len(renamed):
        raise RunError("two sites have one name", expected="each name once")
    exchange.nodes = {node: renamed[exchange.nodes[node]] for node in ids}
    return {renamed[old]: hello for old, hello in greeted.items()}


def greet_enrolled(
    exchange: Exchange,
    names: dict[int, str],
    *,
    wait_seconds: float,
    min_sites: int,
    left_out: Callable[[str, str], None],
    seen: Callable[[int, int], None],
) -> dict[str, Hello]:
    """Wait for the enrolled sites, and greet those that came.

    Args:
        exchange: its nodes are set to the sites that take part.
        names: name of each enrolled node, from the registry.
        wait_seconds: how long those that are away are waited for.
        min_sites: fewer that answer are an error.
        left_out: told of each site that takes no part, and why.
        seen: told how many are there, and of how many, whenever that changes.

    Raises:
        RunError: too few sites came, or too few answered.
    """
    here = _enrolled_here(exchange, names, wait_seconds, seen)
    gone = exchange.gone()
    out = {site: gone.get(site, f"it was not there within {wait_seconds:.0f} s") for site in _others(names, here)}
    exchange.nodes = {node: names[node] for node in here}
    greeted: dict[str, Hello] = {}
    answers = exchange.ask(wire.HELLO, lambda _: _empty(), deadline_seconds=wait_seconds, on_lost_site="retry")
    for answer in answers:
        if answer.message is None:
            out[answer.site] = answer.failure
        elif (hello := answer.of(Hello)).site != answer.site:
            out[answer.site] = f"it takes itself for {hello.site!r}"
        else:
            greeted[answer.site] = hello
    exchange.nodes = {node: site for node, site in exchange.nodes.items() if site in greeted}
    for site, why in sorted(out.items()):
        left_out(site, why)
    if len(greeted) < min_sites:
        missing = "; ".join(f"{site}: {why}" for site, why in sorted(out.items()))
        raise RunError(
            f"{len(greeted)} of {len(names)} enrolled sites take part ({missing})",
            expected=f"at least {min_sites}",
            fix="start the missing sites with `moretta site run`, or look into the logs of those named",
        )
    return greeted


def _others(names: dict[int, str], here: set[int]) -> list[str]:
    return sorted(site for node, site in names.items() if node not in here)


def _awaited(exchange: Exchange, expected: int) -> list[int]:
    end = exchange.clock() + exchange.deadline_seconds
    while len(ids := sorted(exchange.online())) < expected:
        if exchange.clock() > end:
            raise RunError(
                f"{len(ids)} sites came within {exchange.deadline_seconds:.0f} s",
                expected=f"{expected}",
                fix="start the missing sites, or lower the number of sites in the study",
            )
        exchange.sleep(_POLL_SECONDS)
    return ids


def _enrolled_here(
    exchange: Exchange, names: dict[int, str], wait_seconds: float, seen: Callable[[int, int], None]
) -> set[int]:
    """The enrolled nodes that are there: all of them, or those that came in time."""
    end = exchange.clock() + wait_seconds
    before = -1
    while True:
        gone = exchange.gone()
        wanted = {node for node, site in names.items() if site not in gone}
        here = wanted & exchange.online()
        if len(here) != before:
            seen(len(here), len(names))
            before = len(here)
        if here == wanted or exchange.clock() > end:
            return here
        exchange.sleep(_REAL_POLL_SECONDS)


def _empty() -> RecordDict:
    from flwr.app import RecordDict

    return RecordDict({wire.CONFIG: wire.json_config(version=1)})
