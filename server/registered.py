"""What the registry says, while a study runs, of the sites that were enrolled when it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moretta.server.enrollment.site_registry import Registry
from moretta.server.home import ServerHome
from moretta.shared.study.run_plan import DeploymentPlan

_WHY = {"revoked": "its enrollment was revoked", "left": "it gave up its enrollment"}


def sites_gone(plan: DeploymentPlan) -> Callable[[], Mapping[str, str]]:
    """A look into the registry: the planned sites that may not take part any more, each with the reason.

    Raises:
        HomeError: the server's folder or its registry cannot be used.
    """
    registry = Registry.open(ServerHome.open(plan.server_home).registry)

    def look() -> dict[str, str]:
        known = {site.name: site for site in registry.sites()}
        gone: dict[str, str] = {}
        for planned in plan.sites:
            site = known.get(planned.name)
            if site is None or site.state != "enrolled":
                gone[planned.name] = _WHY.get(site.state if site else "", "it is not enrolled")
            elif site.node_id is not None and site.node_id != planned.node:
                gone[planned.name] = "it was enrolled anew, with another key, while the study ran"
        return gone

    return look
