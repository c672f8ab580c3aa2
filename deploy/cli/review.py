"""A data steward's decision about a study: `moretta site review` and `approve`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.deploy.cli.console import (
    AsJson,
    OfferOrStudy,
    Settings,
    SiteFolder,
    Yes,
    complain,
    note,
    offered,
    progress,
    read_study,
    show,
    show_table,
    site_home,
)
from moretta.shared.core.errors import CorpusError, StudyError

if TYPE_CHECKING:
    from moretta.client.offers import Offer
    from moretta.client.site_home import SiteHome
    from moretta.deploy.site.review import Review
    from moretta.deploy.site.review_choice import Choice

Digest = Annotated[str, typer.Argument(help="Of the offer, or an unmistakable beginning of it.")]


def review(
    study: OfferOrStudy,
    *,
    home: SiteFolder = None,
    out: Annotated[Path | None, typer.Option(help="A page to keep instead, with some clips, in a new folder.")] = None,
    clips: Annotated[int, typer.Option(min=0, help="How many clips that page shows.")] = 6,
    listed: Annotated[
        bool, typer.Option("--list", help="Print clips and risks instead; no browser is needed.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the desk, on 127.0.0.1; 0 takes a free one.")] = 0,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """See and hear what an offered study would release, and decide. Nothing leaves and nothing is spent.

    Opens a desk for the browser on this machine: every clip before and after, the risk of each clip and person by
    attackers that run here, the cost, and the decision clip by clip. The link works once. From another machine:
    `ssh -L PORT:127.0.0.1:PORT`, with `--port PORT`.

    With `--out`, or for a study file, it makes a page to keep. Of a study file that page is preliminary: it is made
    with arrays of this machine, and the coordinator's may be others.

    Example: moretta site review 3f9a --home clinic-a
    """
    from moretta.deploy.site.approvals import offer_facts

    site = site_home(home)
    offer = offered(site, study, set_)
    if offer is None or out is not None:
        if listed:
            raise StudyError("--list with a page or a study file", expected="the digest of an offer, and no --out")
        _page(site, study, offer, out or Path("review"), shown=clips, set_=set_, as_json=as_json)
        return
    with _reviewed(site, offer) as (made, choice):
        if listed:
            facts = [row.as_json(excluded=row.clip.name in choice.excluded) for row in choice.rows]
            _show_clips(choice, facts, as_json=as_json)
            return
        from moretta.deploy.site.desk import Desk
        from moretta.deploy.site.desk_pages import serve

        scratch = made.release.folder.parent / "sounds"
        scratch.mkdir(mode=0o700)
        desk = Desk(offer, offer_facts(site, offer), made, choice, scratch)
        decision = serve(desk, port=port, ready=_say_link)
    content = None if decision is None else decision.model_dump(mode="json")
    lines = "No decision was made"
    if decision is not None:
        stay = f" {decision.clips} clips; {decision.excluded} stay here" if decision.decision == "approved" else ""
        lines = f"{decision.decision.capitalize()}: {decision.digest}{stay}"
    show({"offer": offer.digest, "decision": content}, lines, as_json=as_json)


def approve(
    digest: Digest,
    *,
    home: SiteFolder = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Without these clips, as `risk>0.5`; repeat for more.")
    ] = None,
    exclude_clips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Without the clips whose names are lines of this file.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Approve a study, with the very arrays that were offered and the clips that are there now.

    The site responds to it from now on, within its policy, with these clips and no others. Approve again to take in
    clips that came later, or to exclude more. Look first: moretta site review DIGEST.

    Rules: risk>0.5, person-risk>0.5, age<18, seconds>5, emotion=ANG, sex=female, speaker=1004, sentence=IEO. An
    unknown value counts as beyond every number. Rules about risk run the attackers of `review` first.

    Example: moretta site approve 3f9a --home clinic-a --exclude speaker=1004
    """
    from moretta.deploy.site.approvals import find_offer, offer_facts, offer_lines
    from moretta.deploy.site.review import steward_settings
    from moretta.deploy.site.review_choice import Choice

    site, rules = site_home(home), exclude or []
    offer = find_offer(site, digest)
    if any("risk" in rule for rule in rules):
        with _reviewed(site, offer) as (_, choice):
            pass
    else:
        choice = Choice.of(steward_settings(site), offer)
    before, choice.excluded = choice.excluded, set()
    for rule in rules:
        choice.excluded |= choice.matching(rule)
    if exclude_clips is not None:
        choice.exclude(_names_in(exclude_clips))
    choice.check(offer)
    included, everything = len(choice.included), len(choice.rows)
    lines = [*offer_lines(offer_facts(site, offer)), f"  {included} of {everything} clips would be released"]
    if added := before - choice.excluded:  # each approval stands by itself: rules of the last one are not kept
        lines.append(f"  {len(added)} of them are not in the approval that there is")
    for line in lines:
        (note if as_json else typer.echo)(line)
    if not yes:
        typer.confirm("Respond to this study?", abort=True, err=as_json)
    decision = choice.approve(offer)
    line = f"Approved: {offer.digest} with {decision.clips} clips; {decision.excluded} stay here"
    show(decision.model_dump(mode="json"), line, as_json=as_json)


def _page(
    site: SiteHome,
    study: Path,
    offer: Offer | None,
    out: Path,
    *,
    shown: int,
    set_: Sequence[str] | None,
    as_json: bool,
) -> None:
    from moretta.deploy.site.review import PAGE, review_study

    chosen = read_study(study, set_) if offer is None else offer.study
    arrays = None if offer is None else offer.arrays()
    with progress("Anonymizing") as step:
        made = review_study(site, chosen, out, arrays=arrays, shown=shown, step=step, notify=note)
    statement, digest = made.release.statement, chosen.digest()
    lines = [f"{statement.clips} clips of {statement.speakers} speakers would be released for {digest}"]
    if offer is None:
        lines.append("Preliminary: made with arrays of this machine. Review the offer before you approve it")
    lines.append(f"Look at {out / PAGE}, and listen to {out / 'media'}")
    show({"study": digest, "statement": statement.model_dump(mode="json")}, lines, as_json=as_json)


def _say_link(link: str) -> None:
    complain("Open this link in a browser on this machine. It works once, and until Ctrl-C:")
    complain(link)


@contextmanager
def _reviewed(site: SiteHome, offer: Offer) -> Iterator[tuple[Review, Choice]]:
    """The release that an approval would make, and the risks of its clips; its folder is removed afterwards."""
    from moretta.client.site_home import REVIEW_PREFIX
    from moretta.deploy.runtime.run_folder import passing_folder
    from moretta.deploy.site.review import make_review, steward_settings
    from moretta.deploy.site.review_choice import Choice
    from moretta.shared.core.workers import in_lines

    settings = steward_settings(site)
    choice = Choice.of(settings, offer)
    with passing_folder(REVIEW_PREFIX, site.root) as folder:
        with progress("Anonymizing") as step:
            out = folder / "review"
            made = make_review(
                settings, offer.study, out, arrays=offer.arrays(), own_names=True, step=step, notify=note
            )
        choice.attack(made, progress=in_lines(note))
        yield made, choice


def _show_clips(choice: Choice, clips: list[dict[str, Any]], *, as_json: bool) -> None:
    risks = choice.risks
    assert risks is not None
    attacks = [
        {"attacker": a.attacker, "scenario": a.scenario, "top1": a.top1, "reason": a.reason} for a in risks.attacks
    ]
    if as_json:
        show({"clips": clips, "attacks": attacks, "chance": risks.chance}, (), as_json=True)
        return
    keys = ("clip", "speaker", "emotion", "sex", "age", "seconds", "risk", "person_risk", "excluded")
    rows = [["-" if (value := clip[key]) is None else _cell(value) for key in keys] for clip in clips]
    show_table([key.replace("_", "-") for key in keys], rows)
    for attack in risks.attacks:
        figure = f"recognises {attack.top1:.0%}" if not attack.reason and attack.top1 is not None else attack.reason
        typer.echo(f"{attack.attacker}, {attack.scenario}: {figure}")
    if risks.chance is not None:
        typer.echo(f"A guess recognises {risks.chance:.0%}")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _names_in(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read", expected="a text file with one name of a clip a line") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
