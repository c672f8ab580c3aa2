"""`moretta site ledger`: what has been spent of the privacy of a site's clips and people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moretta.shared.core.printable import printable


def ledger(
    *,
    home: Annotated[
        Path | None,
        typer.Option(help="The site's folder; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A ledger elsewhere, such as one of a simulation or a backup.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=1e-300, max=0.999, help="Tell epsilon at this delta; default the policy's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Check the privacy ledger and tell what all studies together have cost.

    Follows the chain of hashes, holds it against the server's last receipt, and composes the losses of every clip and
    every speaker. Exits with 6 if the ledger is broken, or older than the server has countersigned.

    Example: moretta site ledger --home clinic-a
    """
    from cryptography import x509

    from moretta.client.accounting.budget import BudgetLimits
    from moretta.client.policy import Policy
    from moretta.client.site_home import SiteHome, default_home
    from moretta.client.transport.identity import Identity
    from moretta.deploy.cli.ledger_view import LedgerView, ledger_lines
    from moretta.shared.core.errors import HomeError

    if file is not None:
        if not file.is_file():
            raise HomeError(f"no privacy ledger {file}", expected="a file ledger.jsonl", fix="correct --file")
        view = LedgerView.opened(
            file, site=file.parent.name or ".", ca=None, budget=BudgetLimits.unlimited(), delta=delta
        )
    else:
        chosen = SiteHome(home or default_home())
        identity = Identity.load(chosen.identity_file)
        view = LedgerView.opened(
            chosen.root / "ledger.jsonl",
            site=identity.site,
            ca=x509.load_pem_x509_certificate(identity.ca_pem.encode()),
            budget=Policy.load(chosen.policy_file).budget,
            delta=delta,
        )
    facts = view.facts()
    typer.echo(json.dumps(facts) if as_json else "\n".join(map(printable, ledger_lines(facts))))
