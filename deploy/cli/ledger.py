"""`moretta site ledger`: what has been spent of the privacy of a site's clips and people."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.deploy.cli.console import AsJson, SiteFolder, show, site_home

if TYPE_CHECKING:
    from cryptography import x509

    from moretta.client.accounting.budget import BudgetLimits
    from moretta.client.accounting.ledger import Ledger

_AUDIENCES = {"server": "all that left", "model": "trained models"}


def ledger(
    *,
    home: SiteFolder = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A ledger elsewhere, such as one of a simulation or a backup.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=1e-300, max=0.999, help="State epsilon at this delta; default the policy's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the privacy ledger and show what all studies together have cost.

    Follows the chain of hashes, compares it with the server's last receipt, and composes the losses of every clip and
    every speaker. Exits with 6 if the ledger is broken, or older than the server has countersigned.

    Example: moretta site ledger --home clinic-a
    """
    from cryptography import x509

    from moretta.client.accounting.budget import BudgetLimits
    from moretta.client.policy import Policy
    from moretta.client.transport.identity import Identity
    from moretta.shared.core.errors import HomeError

    if file is not None:
        if not file.is_file():
            raise HomeError(f"no privacy ledger {file}", expected="a file ledger.jsonl", fix="correct --file")
        facts = ledger_facts(file, site=file.parent.name or ".", ca=None, budget=BudgetLimits.unlimited(), delta=delta)
    else:
        chosen = site_home(home)
        identity = Identity.load(chosen.identity_file)
        facts = ledger_facts(
            chosen.root / "ledger.jsonl",
            site=identity.site,
            ca=x509.load_pem_x509_certificate(identity.ca_pem.encode()),
            budget=Policy.load(chosen.policy_file).budget,
            delta=delta,
        )
    show(facts, ledger_lines(facts), as_json=as_json)


def ledger_facts(
    path: Path, *, site: str, ca: x509.Certificate | None, budget: BudgetLimits, delta: float | None = None
) -> dict[str, Any]:
    """Check a ledger, and compose what it records.

    Args:
        path: of the ledger.
        site: name of the site.
        ca: the authority whose server countersigns; None where there is no server.
        budget: the site's limits.
        delta: at which epsilon is stated; None takes the budget's.

    Raises:
        RefusedError: the chain is broken, older than the receipt, or the receipt is not the server's.
    """
    from moretta.client.accounting.account import AUDIENCES, UNITS, Account
    from moretta.client.accounting.ledger import Ledger, receipt_path, stored_receipt

    opened = Ledger(path)
    signed = stored_receipt(receipt_path(path))
    if signed is not None and ca is not None:
        signed.verify(ca)
    account, delta = Account.read(opened), budget.delta if delta is None else delta

    def limit(unit: Any, audience: Any) -> float | None:
        found = budget.limit(unit, audience)
        return None if math.isinf(found) else found  # JSON has no infinity

    return {
        "site": site,
        "path": str(path),
        "entries": opened.length,
        "head": opened.head,
        "countersigned": None if signed is None else {"length": signed.length, "unix_time": signed.unix_time},
        "delta": delta,
        "clips": account.members("clip"),
        "speakers": account.members("speaker"),
        "epsilon": {a: {unit: account.epsilon(unit, a, delta=delta) for unit in UNITS} for a in AUDIENCES},
        "limits": {a: {unit: limit(unit, a) for unit in UNITS} for a in AUDIENCES},
        "spent": _spent(opened),
    }


def _spent(opened: Ledger) -> list[dict[str, Any]]:
    """One row for each study and each thing that it made of the site's clips, in order of time."""
    from moretta.client.accounting.account import COHORT
    from moretta.client.accounting.budget import RESPONSE_KIND

    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    times: Counter[tuple[str, str, str]] = Counter()
    for entry in opened.all_entries():
        if entry["kind"] in (COHORT, RESPONSE_KIND):
            continue
        what = str(entry.get("model") or entry.get("anonymizer") or "")
        key = (str(entry.get("study", "")), entry["kind"], what)
        times[key] += 1
        rows[key] = {"study": key[0], "kind": key[1], "what": what, "last": entry["at"], "times": times[key]}
    return list(rows.values())


def ledger_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of a ledger as text."""
    signed = facts["countersigned"]
    lines = [
        f"Privacy ledger of {facts['site']}: {facts['entries']} entries, the chain is whole",
        f"head          {facts['head']}",
        "countersigned never: without a server's receipt an old backup would not be noticed"
        if signed is None
        else f"countersigned up to entry {signed['length']} of {facts['entries']}, {_time(signed['unix_time'])}",
        f"about         {facts['clips']} clips of {facts['speakers']} speakers",
        "",
        f"{'epsilon at delta ' + format(facts['delta'], 'g'):<28}{'per clip':>16}{'limit':>10}"
        f"{'per speaker':>16}{'limit':>10}",
    ]
    for audience, text in _AUDIENCES.items():
        cells = ""
        for unit, epsilon in facts["epsilon"][audience].items():
            limit = facts["limits"][audience][unit]
            spent = "unbounded" if epsilon is None else f"{epsilon:,.2f}"
            cells += f"{spent:>16}{'none' if limit is None else f'{limit:g}':>10}"
        lines.append(f"{text:<28}{cells}")
    lines += ["", f"{'last':<18}{'study':<18}{'kind':<10}{'times':>6}  what"]
    lines += [
        f"{_time(row['last']):<18}{row['study'][:16]:<18}{row['kind']:<10}{row['times']:>6}  {row['what']}"
        for row in facts["spent"]
    ]
    return lines


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
