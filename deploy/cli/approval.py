"""`moretta site pending`, `approve` and `refuse`: a steward decides what is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moretta.client.site_home import SiteHome

Home = Annotated[
    Path | None,
    typer.Option(help="The site's folder; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Digest = Annotated[str, typer.Argument(help="Of the offer, or as much of its beginning as tells it from the others.")]


def pending(
    *,
    home: Home = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were decided, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the studies that wait for approval: what they are, and whether this site gets the same public arrays.

    Example: moretta site pending --home clinic-a
    """
    from moretta.client.approval.offers import Offers
    from moretta.deploy.site.approvals import as_text, facts_of

    chosen = _home(home)
    offers = Offers(chosen.root)
    found = [facts_of(chosen, offer) for offer in (offers.all() if everything else offers.pending())]
    if as_json:
        typer.echo(json.dumps({"offers": found}))
    else:
        typer.echo("\n".join(line for facts in found for line in as_text(facts)) or "No study waits")


def approve(
    digest: Digest, *, home: Home = None, yes: Annotated[bool, typer.Option(help="Do not ask.")] = False
) -> None:
    """Approve a study with the very arrays that were offered: it is answered from now on, within the policy.

    Look first: moretta site review DIGEST.

    Example: moretta site approve 3f9a --home clinic-a
    """
    from moretta.client.approval.comparison import check_autoencoder
    from moretta.client.approval.offers import Offers
    from moretta.client.policy import Policy
    from moretta.deploy.site.approvals import as_text, facts_of, offer_named

    chosen = _home(home)
    offer, policy = offer_named(chosen, digest), Policy.load(chosen.policy_file)
    policy.check_study(offer.study)
    check_autoencoder(offer.study, offer.arrays(), policy)
    typer.echo("\n".join(as_text(facts_of(chosen, offer))))
    if not yes:
        typer.confirm("Answer this study?", abort=True)
    Offers(chosen.root).decide(offer, "approved", "steward")
    typer.echo(f"Approved: {offer.digest}")


def refuse(digest: Digest, *, home: Home = None) -> None:
    """Refuse a study: the coordinator is told so, and its arrays are removed here.

    Example: moretta site refuse 3f9a --home clinic-a
    """
    from moretta.client.approval.offers import Offers
    from moretta.deploy.site.approvals import offer_named

    chosen = _home(home)
    offer = offer_named(chosen, digest)
    Offers(chosen.root).decide(offer, "refused", "steward")
    typer.echo(f"Refused: {offer.digest}")


def _home(folder: Path | None) -> SiteHome:
    from moretta.client.site_home import SiteHome, default_home

    return SiteHome(default_home() if folder is None else folder)
