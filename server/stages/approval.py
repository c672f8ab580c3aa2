"""Stage approval: real sites' stewards are asked before anything else, and waited for."""

from __future__ import annotations

from flwr.app import RecordDict

from moretta.server.stages.run_context import Run
from moretta.server.stages.site_failures import noting_failure_of
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Offered
from moretta.shared.study.offer import Array, approval_digest, described
from moretta.shared.study.run_plan import DeploymentPlan

STAGE = "approval"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 3.0, 30.0
"""Between two questions to a site whose steward has not answered."""


def approval_wanted(run: Run) -> bool:
    """In a simulation whoever runs the study holds the clips."""
    return isinstance(run.plan, DeploymentPlan)


def not_approved(run: Run) -> dict[str, Array]:
    """Public arrays that sites do not have from the offer: all in a simulation, else what sites have trained since."""
    facts = described(run.public)
    return {name: array for name, array in run.public.items() if facts[name]["sha256"] != run.offered.get(name)}


def wait_for_approval(run: Run, rates: dict[str, float]) -> None:
    """Offer study and arrays, wait for those who have not decided, and go on with the sites that have approved.

    Raises:
        RunError: fewer have than a release needs.
    """
    del rates
    facts = described(run.public)
    run.approval = approval_digest(run.study, facts)
    run.offered = {name: fact["sha256"] for name, fact in facts.items()}
    end, pause = run.site_grid.clock() + run.study.stages.wait_seconds, FIRST_PAUSE_SECONDS
    failures: dict[str, str] = {}
    states: dict[str, str] = dict.fromkeys(run.site_grid.sites, "unknown")
    lost: dict[str, str] = {}
    named: list[str] = []
    while True:
        for whole in (True, False):
            requested = [site for site, state in states.items() if state == ("unknown" if whole else "pending")]
            _ask(run, requested, states, failures, lost, whole=whole)
        pending = sorted(site for site, state in states.items() if state == "pending")
        if pending and pending != named:
            _report_progress(run, pending)
            named = pending
        forgotten = [site for site, state in states.items() if state == "unknown"]  # they are sent all of it again
        left = end - run.site_grid.clock()
        if not (pending or forgotten) or left <= 0:
            break
        run.site_grid.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    late = f"its steward has not approved the study within {run.study.stages.wait_seconds:.0f} s"
    failures |= {site: lost.get(site, late) for site in (*pending, *forgotten)}
    _go_on_without(run, failures)


def _ask(
    run: Run, sites: list[str], states: dict[str, str], failures: dict[str, str], lost: dict[str, str], *, whole: bool
) -> None:
    """A site that is lost with a question has not decided: it is asked again, unless it is gone for good."""
    if not sites:
        return
    content = RecordDict({wire.CONFIG: wire.study_config(run.study, approval=run.approval)})
    if whole:
        content[wire.ARRAYS] = wire.arrays_to_record(run.public)
    for response in run.ask("release", wire.OFFER, lambda _: content, sites=sites):
        lost.pop(response.site, None)
        if response.lost and response.site not in run.site_grid.gone():
            lost[response.site] = response.failure
            continue
        states[response.site] = "failed"
        with noting_failure_of(response.site, failures):
            states[response.site] = response.of(Offered).state
            if states[response.site] == "refused":
                failures[response.site] = "its steward has refused the study"
    if whole:
        for site in [site for site in sites if states[site] == "unknown" and site not in lost]:
            states[site], failures[site] = "failed", "it did not keep the offer"


def _report_progress(run: Run, pending: list[str]) -> None:
    approve = f"moretta site approve {run.approval[:16]}"
    what = f"waiting for the stewards of {', '.join(pending)}, who run: moretta site pending, and then: {approve}"
    run.notify(stage=STAGE, state="note", what=what)


def _go_on_without(run: Run, failures: dict[str, str]) -> None:
    for site, why in sorted(failures.items()):
        run.warn(f"{site} takes no part: {why}")
        run.miss(site, STAGE, why)
    left = [site for site in run.site_grid.sites if site not in failures]
    run.require_sites(left, "release", "; ".join(f"{s}: {w}" for s, w in sorted(failures.items())[:3]))
    run.site_grid.nodes = {node: site for node, site in run.site_grid.nodes.items() if site not in failures}
