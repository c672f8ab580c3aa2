"""Which losses are paid for answers that never left, and which answers may have left: so a redone one is paid once."""

from __future__ import annotations

import json
from typing import Any

from moretta.client.accounting.account import Loss
from moretta.client.accounting.ledger import Ledger
from moretta.shared.study.schema import Study

RESPONSE_KIND = "answered"
"""Of an answer that is kept on disk and may have left. It has no loss of its own."""
REMOVED_KIND = "removed"
"""Of what was made for a study and is used no more, since its clips have changed. It has no loss: what was lost stays
lost."""


def since_removal(ledger: Ledger, kind: str, study: Study) -> list[dict[str, Any]]:
    """Entries of a kind about what is still in use for a study, oldest first."""
    entries = [e for e in ledger.all_entries() if e.get("study") == study.digest()]
    removed = [number for number, entry in enumerate(entries) if entry["kind"] == REMOVED_KIND]
    return [entry for entry in entries[removed[-1] + 1 if removed else 0 :] if entry["kind"] == kind]


def is_paid(ledger: Ledger, kind: str, question: str, loss: Loss) -> bool:
    """Whether the ledger has this very loss for an answer that never left, because the site died over it.

    What nobody saw told nobody anything: computing it anew, with new noise, costs nothing more.
    """
    if not question:
        return False
    record = json.loads(json.dumps(loss.record()))
    paid = [e for e in ledger.entries(kind, question=question) if all(e.get(k) == record[k] for k in record)]
    return len(paid) > len(ledger.entries(RESPONSE_KIND, question=question))


def note_response(ledger: Ledger, kind: str, study: Study, model: str, question: str) -> None:
    """Write that an answer is about to leave: whatever is computed for this question from here on costs again."""
    paid = ledger.entries(kind, question=question)
    if len(paid) > len(ledger.entries(RESPONSE_KIND, question=question)):
        ledger.spend(RESPONSE_KIND, study=study.digest(), model=model, question=question)
