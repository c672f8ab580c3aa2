"""The first exchange with the sites: which are there, under which name, and with which code.

Virtual sites state their own names. A real site has the name that the registry knows its node by: it cannot take
another's.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flwr.app import RecordDict
from flwr.serverapp import Grid

from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.home import ServerHome
from moretta.server.stages.run import RunContext
from moretta.shared.core.errors import RunError
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Hello
from moretta.shared.study.run_plan import DeploymentPlan

_POLL_SECONDS = 0.1
_REAL_POLL_SECONDS = 0.5
_WHY_GONE = {"revoked": "its enrollment was revoked", "left": "it gave up its enrollment"}


def connect(context: RunContext, within: Grid) -> SiteGrid:
    """Exchange the first message with the sites of a run, and note which code they run; raises RunError for too few."""
    random.seed(context.study.seed)  # Flower's strategies sample with the global generator
    grid = SiteGrid(
        within,
        context.study.train.deadline_seconds,
        on_lost_site=context.study.stages.on_lost_site,
        traffic=context.progress.traffic,
    )
    plan, progress = context.plan, context.progress
    if isinstance(plan, DeploymentPlan):
        grid.gone, grid.on_sent = sites_gone(plan), partial(_touch, ServerHome.open(plan.server_home).sent_file)
        grid.note = lambda text: context.notify(stage="sites", state="note", what=text)
        taking_part = {s.node: s.name for s in plan.sites if not progress.done or s.name in progress.missed}
        with context.timed("wait for sites"):
            hellos = hello_enrolled(context, grid, taking_part)
    else:
        hellos = hello_virtual(grid, len(plan.sites))
    for site, hello in hellos.items():
        context.progress.missed.setdefault(site, [])
        if hello.digest != code_digest():
            context.warn(f"{site} runs another version of Moretta than the server")
    return grid


def hello_virtual(grid: SiteGrid, expected: int) -> dict[str, Hello]:
    """Wait until `expected` sites are there, and learn their names.

    Raises RunError where too few came in time, one did not respond or has no usable name, or two have one name.
    """
    end = grid.clock() + grid.deadline_seconds
    while len(ids := sorted(grid.online())) < expected:
        if grid.clock() > end:
            raise RunError(
                f"{len(ids)} sites came within {grid.deadline_seconds:.0f} s",
                expected=f"{expected}",
                fix="start the missing sites, or lower the number of sites in the study",
            )
        grid.sleep(_POLL_SECONDS)
    grid.nodes = {node: f"node-{node}" for node in ids}
    responses = grid.request(wire.HELLO, _hello_request)
    failures = [response.failure for response in responses if response.message is None]
    if failures:
        raise RunError(
            f"{len(failures)} of {len(ids)} sites did not respond to the first request: {failures[0]}",
            expected="every site to respond",
            fix="look into the log of that site",
        )
    hellos = {response.site: response.of(Hello) for response in responses}
    if len({hello.site for hello in hellos.values()}) != len(hellos):
        raise RunError("two sites have one name", expected="each name once")
    grid.nodes = {node: hellos[grid.nodes[node]].site for node in ids}
    return {hello.site: hello for hello in hellos.values()}


def hello_enrolled(context: RunContext, grid: SiteGrid, names: dict[int, str]) -> dict[str, Hello]:
    """Wait for the enrolled sites, `names` by node, and exchange the first message with those that came.

    The grid's nodes are set to the sites that take part; raises RunError for too few of them.
    """
    progress, wait_seconds = context.progress, context.study.stages.wait_seconds
    online = _enrolled_online(context, grid, names)
    gone = grid.gone()
    absent = (site for node, site in names.items() if node not in online)
    out = {site: gone.get(site, f"it was not there within {wait_seconds:.0f} s") for site in absent}
    grid.nodes = {node: names[node] for node in online}
    hellos: dict[str, Hello] = {}
    for response in grid.request(wire.HELLO, _hello_request, deadline_seconds=wait_seconds, on_lost_site="retry"):
        if response.message is None:
            out[response.site] = response.failure
        elif (hello := response.of(Hello)).site != response.site:
            out[response.site] = f"it calls itself {hello.site!r}"
        else:
            hellos[response.site] = hello
    grid.nodes = {node: site for node, site in grid.nodes.items() if site in hellos}
    for site, why in sorted(out.items()):
        context.warn(f"{site} took no part: {why}")
        context.miss(site, f"what followed {progress.position}" if progress.done else "the start", why, lost=True)
    if len(hellos) < context.study.train.min_sites:
        missing = "; ".join(f"{site}: {why}" for site, why in sorted(out.items()))
        raise RunError(
            f"{len(hellos)} of {len(names)} enrolled sites take part ({missing})",
            expected=f"at least {context.study.train.min_sites}",
            fix="start the missing sites with `moretta site run`, or look into the logs of those named",
        )
    return hellos


def _enrolled_online(context: RunContext, grid: SiteGrid, names: dict[int, str]) -> set[int]:
    """The enrolled nodes that are there: all of them, or those that came in time."""
    before = -1
    end = grid.clock() + context.study.stages.wait_seconds
    while True:
        gone = grid.gone()
        wanted = {node for node, site in names.items() if site not in gone}
        online = wanted & grid.online().keys()
        if len(online) != before:
            before = len(online)
            context.notify(stage="wait for sites", state="step", done=before, total=len(names))
        if online == wanted or grid.clock() > end:
            return online
        grid.sleep(_REAL_POLL_SECONDS)


def _touch(file: Path) -> None:
    """Touch a file, so that the relay delivers messages. The file system's clock is too coarse for two in a row."""
    file.touch(mode=0o600)
    os.utime(file, ns=(now := time.time_ns(), now))


def _hello_request(site: str) -> RecordDict:
    del site
    return RecordDict({wire.CONFIG: wire.json_config(version=1)})


def sites_gone(plan: DeploymentPlan) -> Callable[[], Mapping[str, str]]:
    """A look into the registry: the planned sites that may not take part any more, each with the reason."""
    registry = SiteRegistry.open(ServerHome.open(plan.server_home).registry)

    def look() -> dict[str, str]:
        known = {site.name: site for site in registry.sites()}
        gone: dict[str, str] = {}
        for planned in plan.sites:
            site = known.get(planned.name)
            if site is None or site.state != "enrolled":
                gone[planned.name] = _WHY_GONE.get(site.state if site else "", "it is not enrolled")
            elif site.node_id is not None and site.node_id != planned.node:
                gone[planned.name] = "it was enrolled anew, with another key, while the study ran"
        return gone

    return look
