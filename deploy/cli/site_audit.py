"""`moretta site audit`: the whole audit of a site's own release, by its steward, on the site's machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.audit import show_audit
from moretta.deploy.cli.console import (
    AsJson,
    AttackerNames,
    Inference,
    OfferOrStudy,
    Processes,
    Resamples,
    Settings,
    SiteFolder,
    Utility,
    listed,
    note,
    offered,
    progress,
    read_study,
    site_home,
)
from moretta.shared.core.device import computing_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.deploy.site.own_audit import OwnAudit
    from moretta.shared.study.schema import Study

_SHOWN_PEOPLE = 5


def audit(
    study: OfferOrStudy,
    *,
    home: SiteFolder = None,
    attackers: AttackerNames = "",
    seed: Annotated[int, typer.Option(min=0, help="Of trials and training.")] = 1,
    bootstrap: Resamples = 200,
    inference: Inference = True,
    utility: Utility = True,
    workers: Processes = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Attack what this site has released for a study, or would release, with the whole audit. Nothing leaves.

    All attackers and scenarios run here, on this site's own originals. A release that has left is attacked as it left.
    Otherwise it is made as `review` makes it, of the approved clips or, before an approval, of all. No budget is spent.

    Example: moretta site audit 3f9a --home clinic-a
    """
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.deploy.site.own_audit import audit_own
    from moretta.deploy.site.review import steward_settings

    site = site_home(home)
    settings = steward_settings(site)
    offer = offered(site, study, set_)
    chosen = read_study(study, set_) if offer is None else offer.study
    with computing_on(settings.device), progress("Anonymizing") as step:
        done = audit_own(
            settings,
            chosen,
            arrays=None if offer is None else offer.arrays(),
            step=step,
            notify=note,
            attackers=listed(attackers),
            seed=seed,
            bootstrap=bootstrap,
            workers=workers,
            inference=inference,
            utility=utility,
            command=reproduce_command(sys.argv[1:]),
            progress=lambda what, done, total: note(f"{done}/{total} {what}"),
        )
    facts = {
        "study": chosen.digest(),
        "offer": None if offer is None else offer.digest,
        "has_left": done.has_left,
        "clips": done.clips,
        "speakers": done.speakers,
        "people": [asdict(person) for person in done.people],
    }
    lines = list(_lines(done, chosen, is_offer=offer is not None))
    show_audit(done.found, done.folder, as_json=as_json, facts=facts, lines=lines)


def _lines(done: OwnAudit, study: Study, *, is_offer: bool) -> Iterator[str]:
    what = "the release that left this site" if done.has_left else "a release made for this audit; nothing has left"
    yield f"Attacked: {what} ({done.clips} clips of {done.speakers} people)"
    if not is_offer and not done.has_left:
        yield "Preliminary: made with arrays of this machine, and the coordinator's may be others"
    if study.site_training is not None and not done.has_left:
        yield "The study's sites train its code together: this is the release by the code as it was before"
    for person in done.people[:_SHOWN_PEOPLE]:
        known = f"{person.attacker}, {person.scenario}, recognizes {person.top1:.0%} of the {person.modality} clips"
        yield f"Speaker {person.speaker}: {known}"
