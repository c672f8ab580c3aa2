"""Who takes part in a study over the network: what the registry knows, and nothing that a site says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from moretta.deploy.cli.runs import check_names
from moretta.server.enrollment.site_registry import Registry
from moretta.server.enrollment.tables import SiteRecord
from moretta.server.home import ServerHome
from moretta.shared.core.errors import StudyError
from moretta.shared.study.limits import check_limits
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite, load_plan
from moretta.shared.study.schema import RequestStage, Study

CORPUS_NAME = "the sites' own"


def plan_deployment(
    home: ServerHome, study: Study, *, command: str, corpus_name: str | None = None, sites: tuple[str, ...] = ()
) -> DeploymentPlan:
    """Plan a study over enrolled sites.

    Args:
        home: of the server.
        study: what is studied.
        command: to reproduce the run.
        corpus_name: what the report calls the clips, which the server never sees.
        sites: names of those that shall take part; empty means all that are enrolled.

    Raises:
        StudyError: the study names something that does not exist, or a site that is not enrolled, or its limits
            cannot be kept by the sites there are.
    """
    check_names(study)
    known = {site.name: site for site in registered(home)}
    for name in sites:
        if name not in known or known[name].state != "enrolled":
            state = known[name].state if name in known else "unknown"
            raise StudyError(
                f"the site {name} is {state}",
                expected=f"enrolled ones: {', '.join(s for s, r in known.items() if r.state == 'enrolled') or 'none'}",
                fix="`moretta server sites` lists them; `moretta server token` lets one join",
            )
    wanted = [known[name] for name in sites] if sites else [s for s in known.values() if s.state == "enrolled"]
    taking_part = [site for site in wanted if site.node_id is not None]
    least = max(study.train.min_sites, *(study.min_sites(stage) for stage in get_args(RequestStage)))
    if len(taking_part) < least:
        raise StudyError(
            f"{len(taking_part)} enrolled sites that could take part",
            expected=f"at least {least}, as the study says",
            fix="let more sites join (`moretta server token`), or lower min_sites",
        )
    check_limits(study, sites=len(taking_part))
    return DeploymentPlan(
        corpus_name=corpus_name or CORPUS_NAME,
        synthetic=False,
        study=study,
        sites=tuple(EnrolledSite(name=site.name, node=_node(site)) for site in taking_part),
        command=command,
        warnings=tuple(
            f"{site.name} took no part: Flower does not know its node key yet"
            for site in wanted
            if site.node_id is None
        ),
        server_home=home.root,
    )


def plan_again(folder: Path, home: ServerHome, study: Study) -> DeploymentPlan:
    """The plan of a run that goes on, with the node ids that its sites have by now.

    Raises:
        StudyError: there is no such plan, or it is of another study.
    """
    plan = load_plan(folder)
    if not isinstance(plan, DeploymentPlan):
        raise StudyError(f"a {plan.kind} in {folder}", expected="a study over real sites", fix="choose another --out")
    if plan.study != study:
        raise StudyError(
            f"the run in {folder} is of another study", expected="the same study file", fix="choose another --out"
        )
    nodes = {site.name: site.node_id for site in registered(home) if site.state == "enrolled"}
    sites = tuple(EnrolledSite(name=s.name, node=nodes.get(s.name) or s.node) for s in plan.sites)
    return plan.model_copy(update={"sites": sites, "server_home": home.root})


def registered(home: ServerHome) -> list[SiteRecord]:
    """Every site there was, by name.

    Raises:
        HomeError: the registry cannot be opened.
    """
    registry = Registry.open(home.registry)
    try:
        return registry.sites()
    finally:
        registry.close()


def _node(site: SiteRecord) -> int:
    assert site.node_id is not None  # others were left out
    return site.node_id
