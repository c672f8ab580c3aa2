"""A site's privacy ledger, checked, and in words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from moretta.client.accounting.account import AUDIENCES, COHORT, UNITS, Account
from moretta.client.accounting.budget import RESPONSE_KIND, BudgetLimits
from moretta.client.accounting.ledger import Ledger, receipt_path, stored_receipt
from moretta.shared.privacy.chain import SignedHead

_WHO = {"server": "all that left", "model": "trained models"}


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What a ledger says, after its chain and the server's signature were checked."""

    path: Path
    site: str
    ledger: Ledger
    receipt: SignedHead | None
    budget: BudgetLimits
    delta: float

    @classmethod
    def opened(
        cls, path: Path, *, site: str, ca: x509.Certificate | None, budget: BudgetLimits, delta: float | None = None
    ) -> LedgerView:
        """Open and check a ledger.

        Args:
            path: of the ledger.
            site: whose it is.
            ca: the authority whose server countersigns; None where there is no server.
            budget: the site's limits.
            delta: at which epsilon is told; None takes the budget's.

        Raises:
            RefusedError: the chain is broken, older than the receipt, or the receipt is not the server's.
        """
        ledger = Ledger(path)
        receipt = stored_receipt(receipt_path(path))
        if receipt is not None and ca is not None:
            receipt.verify(ca)
        return cls(path, site, ledger, receipt, budget, budget.delta if delta is None else delta)

    def facts(self) -> dict[str, Any]:
        """Everything, as JSON."""
        account = Account.read(self.ledger)
        signed = self.receipt
        return {
            "site": self.site,
            "path": str(self.path),
            "entries": self.ledger.length,
            "head": self.ledger.head,
            "countersigned": None if signed is None else {"length": signed.length, "unix_time": signed.unix_time},
            "delta": self.delta,
            "clips": account.members("clip"),
            "speakers": account.members("speaker"),
            "epsilon": {
                audience: {unit: account.epsilon(unit, audience, delta=self.delta) for unit in UNITS}
                for audience in AUDIENCES
            },
            "limits": {
                audience: {unit: _finite(self.budget.limit(unit, audience)) for unit in UNITS} for audience in AUDIENCES
            },
            "spent": self._spent(),
        }

    def _spent(self) -> list[dict[str, Any]]:
        """One row for each study and each thing that it made of the site's clips, in order of time."""
        rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        times: Counter[tuple[str, str, str]] = Counter()
        for entry in self.ledger.all_entries():
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
    for audience in AUDIENCES:
        cells = ""
        for unit in UNITS:
            limit = facts["limits"][audience][unit]
            cells += f"{_figure(facts['epsilon'][audience][unit]):>16}{'none' if limit is None else f'{limit:g}':>10}"
        lines.append(f"{_WHO[audience]:<28}{cells}")
    lines += ["", f"{'last':<18}{'study':<18}{'kind':<10}{'times':>6}  what"]
    lines += [
        f"{_time(row['last']):<18}{row['study'][:16]:<18}{row['kind']:<10}{row['times']:>6}  {row['what']}"
        for row in facts["spent"]
    ]
    return lines


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _figure(epsilon: float | None) -> str:
    return "unbounded" if epsilon is None else f"{epsilon:,.2f}"


def _finite(limit: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(limit) else limit
