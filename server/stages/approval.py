"""Stage approval: real sites' stewards get the study with its public arrays first, and are waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.context import RunContext
from moretta.server.stages.results import Approval, Arrays
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Offered
from moretta.shared.study.public_arrays import approval_digest, described

STAGE = "approval"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 3.0, 30.0
"""Between two requests to a site whose steward has not decided."""


def not_approved(public: Arrays, approval: Approval) -> Arrays:
    """Public arrays that sites do not have from the offer: all in a simulation, else what sites have trained since."""
    facts = described(public)
    return {name: array for name, array in public.items() if facts[name]["sha256"] != approval.offered.get(name)}


def wait_for_approval(context: RunContext, grid: SiteGrid, public: Arrays) -> Approval:
    """Offer study and arrays, wait for those who have not decided, and go on with the sites that have approved.

    Args:
        context: of the run.
        grid: its nodes are set to the sites that have approved.
        public: what is offered.

    Raises:
        RunError: fewer have approved than a release needs.
    """
    facts = described(public)
    approval = Approval(approval_digest(context.study, facts), {name: fact["sha256"] for name, fact in facts.items()})
    offer = _Offer(context, grid, public, approval.digest, dict.fromkeys(grid.sites, "unknown"))
    wait_seconds = context.study.stages.wait_seconds
    end, pause = grid.clock() + wait_seconds, FIRST_PAUSE_SECONDS
    while True:
        offer.send(whole=True)
        offer.send(whole=False)
        undecided = offer.undecided()
        left = end - grid.clock()
        if not undecided or left <= 0:
            break
        grid.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    late = f"its steward has not approved the study within {wait_seconds:.0f} s"
    failures = offer.failures | {site: offer.lost.get(site, late) for site in undecided}
    context.leave_out(failures, STAGE, "takes no part")
    left_over = [site for site in grid.sites if site not in failures]
    context.require_sites(left_over, len(grid.sites), "release", failures)
    grid.nodes = {node: site for node, site in grid.nodes.items() if site not in failures}
    return approval


@dataclass
class _Offer:
    context: RunContext
    grid: SiteGrid
    public: Arrays
    digest: str
    states: dict[str, str]
    """By site; `unknown` is sent all of it, `pending` only gets another request."""
    failures: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    _named: list[str] = field(default_factory=list)

    def undecided(self) -> list[str]:
        """Sites that have not decided, or do not have the offer any more; names those that are new."""
        pending = sorted(site for site, state in self.states.items() if state == "pending")
        if pending and pending != self._named:
            self._named = pending
            approve = f"moretta site approve {self.digest[:16]}"
            names = ", ".join(pending)
            what = f"waiting for the stewards of {names}, who run: moretta site pending, and then: {approve}"
            self.context.notify(stage=STAGE, state="note", what=what)
        return [*pending, *(site for site, state in self.states.items() if state == "unknown")]

    def send(self, *, whole: bool) -> None:
        """One request to the sites in question. A lost one has not decided: it stays, unless it is gone for good."""
        sites = [site for site, state in self.states.items() if state == ("unknown" if whole else "pending")]
        if not sites:
            return
        content = RecordDict({wire.CONFIG: wire.study_config(self.context.study, approval=self.digest)})
        if whole:
            content[wire.ARRAYS] = wire.arrays_to_record(self.public)
        deadline = self.context.study.deadline_seconds("release")
        for response in self.grid.request(wire.OFFER, lambda _: content, sites=sites, deadline_seconds=deadline):
            site = response.site
            self.lost.pop(site, None)
            if response.lost and site not in self.grid.gone():
                self.lost[site] = response.failure
                continue
            self.states[site] = "failed"
            with noting_failure_of(site, self.failures):
                self.states[site] = response.of(Offered).state
                if self.states[site] == "refused":
                    self.failures[site] = "its steward has refused the study"
            if whole and self.states[site] == "unknown":
                self.states[site], self.failures[site] = "failed", "it did not keep the offer"
