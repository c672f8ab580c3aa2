"""The first words with the sites: who is there, under which name, and with which code.

Virtual sites tell their own names. A real site has the name that the registry knows its node by: it cannot take
another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moretta.server.grid.site_grid import SiteGrid
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Hello

if TYPE_CHECKING:
    from flwr.app import RecordDict

_POLL_SECONDS = 0.1
_REAL_POLL_SECONDS = 0.5


def hello_virtual(site_grid: SiteGrid, expected: int) -> dict[str, Hello]:
    """Wait until `expected` sites are there, and learn their names.

    Raises:
        RunError: too few came before the deadline, one did not answer or has no usable name, or two have one name.
    """
    ids = _awaited(site_grid, expected)
    site_grid.nodes = {node: f"node-{node}" for node in ids}
    responses = site_grid.ask(wire.HELLO, lambda _: _empty())
    hellos = {a.site: a.of(Hello) for a in responses if a.message is not None}
    failures = [a for a in responses if a.message is None]
    if failures:
        raise RunError(
            f"{len(failures)} of {len(ids)} sites did not answer the greeting: {failures[0].failure}",
            expected="every site to answer",
            fix="look into the log of that site",
        )
    renamed = {old: hello.site for old, hello in hellos.items()}
    if len(set(renamed.values())) != len(renamed):
        raise RunError("two sites have one name", expected="each name once")
    site_grid.nodes = {node: renamed[site_grid.nodes[node]] for node in ids}
    return {renamed[old]: hello for old, hello in hellos.items()}


def hello_enrolled(
    site_grid: SiteGrid,
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
    online = _enrolled_online(site_grid, names, wait_seconds, seen)
    gone = site_grid.gone()
    out = {site: gone.get(site, f"it was not there within {wait_seconds:.0f} s") for site in _absent(names, online)}
    site_grid.nodes = {node: names[node] for node in online}
    hellos: dict[str, Hello] = {}
    responses = site_grid.ask(wire.HELLO, lambda _: _empty(), deadline_seconds=wait_seconds, on_lost_site="retry")
    for response in responses:
        if response.message is None:
            out[response.site] = response.failure
        elif (hello := response.of(Hello)).site != response.site:
            out[response.site] = f"it takes itself for {hello.site!r}"
        else:
            hellos[response.site] = hello
    site_grid.nodes = {node: site for node, site in site_grid.nodes.items() if site in hellos}
    for site, why in sorted(out.items()):
        left_out(site, why)
    if len(hellos) < min_sites:
        missing = "; ".join(f"{site}: {why}" for site, why in sorted(out.items()))
        raise RunError(
            f"{len(hellos)} of {len(names)} enrolled sites take part ({missing})",
            expected=f"at least {min_sites}",
            fix="start the missing sites with `moretta site run`, or look into the logs of those named",
        )
    return hellos


def _absent(names: dict[int, str], here: set[int]) -> list[str]:
    return sorted(site for node, site in names.items() if node not in here)


def _awaited(site_grid: SiteGrid, expected: int) -> list[int]:
    end = site_grid.clock() + site_grid.deadline_seconds
    while len(ids := sorted(site_grid.online())) < expected:
        if site_grid.clock() > end:
            raise RunError(
                f"{len(ids)} sites came within {site_grid.deadline_seconds:.0f} s",
                expected=f"{expected}",
                fix="start the missing sites, or lower the number of sites in the study",
            )
        site_grid.sleep(_POLL_SECONDS)
    return ids


def _enrolled_online(
    site_grid: SiteGrid, names: dict[int, str], wait_seconds: float, seen: Callable[[int, int], None]
) -> set[int]:
    """The enrolled nodes that are there: all of them, or those that came in time."""
    end = site_grid.clock() + wait_seconds
    before = -1
    while True:
        gone = site_grid.gone()
        wanted = {node for node, site in names.items() if site not in gone}
        here = wanted & site_grid.online()
        if len(here) != before:
            seen(len(here), len(names))
            before = len(here)
        if here == wanted or site_grid.clock() > end:
            return here
        site_grid.sleep(_REAL_POLL_SECONDS)


def _empty() -> RecordDict:
    from flwr.app import RecordDict

    return RecordDict({wire.CONFIG: wire.json_config(version=1)})
