"""Stage approval: real sites' stewards get the study with its public arrays first, and are waited for."""

from __future__ import annotations

from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.run import Approval, Arrays, RunContext
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Offered
from moretta.shared.study.public_arrays import approval_digest, described

STAGE = "approval"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 3.0, 30.0
"""First and longest pause between two requests to a site whose steward has not decided."""


def not_approved(public: Arrays, approval: Approval) -> Arrays:
    """Public arrays that sites do not have from the offer: all in a simulation, else what sites have trained since."""
    facts = described(public)
    return {name: array for name, array in public.items() if facts[name]["sha256"] != approval.offered.get(name)}


def wait_for_approval(context: RunContext, grid: SiteGrid, public: Arrays) -> Approval:
    """Offer study and arrays, wait for those who have not decided, and go on with the sites that have approved.

    The grid's nodes are set to these. Raises RunError where fewer have approved than a release needs.
    """
    facts = described(public)
    approval = Approval(approval_digest(context.study, facts), {name: fact["sha256"] for name, fact in facts.items()})
    states = dict.fromkeys(grid.sites, "unknown")
    failures: dict[str, str] = {}
    lost: dict[str, str] = {}
    notified: list[str] = []
    wait_seconds = context.study.stages.wait_seconds
    end, pause = grid.clock() + wait_seconds, FIRST_PAUSE_SECONDS
    while True:
        for state in ("unknown", "pending"):
            _offer(context, grid, public, approval.digest, state, states=states, failures=failures, lost=lost)
        pending = sorted(site for site, state in states.items() if state == "pending")
        if pending and pending != notified:
            notified, approve = pending, f"moretta site approve {approval.digest[:16]}"
            who = f"the stewards of {', '.join(pending)}, who run: moretta site pending, and then: {approve}"
            context.notify(stage=STAGE, state="note", what=f"waiting for {who}")
        undecided = [*pending, *(site for site, state in states.items() if state == "unknown")]
        left = end - grid.clock()
        if not undecided or left <= 0:
            break
        grid.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    late = f"its steward has not approved the study within {wait_seconds:.0f} s"
    failures |= {site: lost.get(site, late) for site in undecided}
    context.leave_out(failures, STAGE, "takes no part")
    left_over = [site for site in grid.sites if site not in failures]
    context.require_sites(left_over, len(grid.sites), "release", failures)
    grid.nodes = {node: site for node, site in grid.nodes.items() if site not in failures}
    return approval


def _offer(
    context: RunContext,
    grid: SiteGrid,
    public: Arrays,
    digest: str,
    state: str,
    *,
    states: dict[str, str],
    failures: dict[str, str],
    lost: dict[str, str],
) -> None:
    """One request to the sites in this state; an `unknown` one is sent all of the offer.

    A lost site has not decided: it stays, unless it is gone for good.
    """
    sites = [site for site, known in states.items() if known == state]
    if not sites:
        return
    content = RecordDict({wire.CONFIG: wire.study_config(context.study, approval=digest)})
    if state == "unknown":
        content[wire.ARRAYS] = wire.arrays_to_record(public)
    deadline = context.study.deadline_seconds("release")
    for response in grid.request(wire.OFFER, lambda _: content, sites=sites, deadline_seconds=deadline):
        site = response.site
        lost.pop(site, None)
        if response.lost and site not in grid.gone():
            lost[site] = response.failure
            continue
        states[site] = "failed"
        with noting_failure_of(site, failures):
            states[site] = response.of(Offered).state
            if states[site] == "refused":
                failures[site] = "its steward has refused the study"
        if state == states[site] == "unknown":
            states[site], failures[site] = "failed", "it did not keep the offer"
