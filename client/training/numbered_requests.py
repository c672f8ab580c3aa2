"""Questions that a study asks once: one answer to each, alike however often it is asked, and paid for once.

What sites learn together before they release is learnt in numbered steps. An answer is on the ledger before it is made
and kept before it leaves, so that a site that died over it has neither paid nor answered twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moretta.client.accounting.account import Loss
from moretta.client.settings import SiteSettings
from moretta.client.training.response_ledger import is_paid, note_response, since_removal
from moretta.client.training.update_store import Array, StoredResponse, UpdateStore, digest_of
from moretta.shared.core.errors import RefusedError
from moretta.shared.study.schema import Study


@dataclass(frozen=True)
class Step:
    """One of a study's numbered questions.

    Args:
        kind: of its entries in the ledger.
        model: what is learnt, as entries name it.
        number: of the round, from 1.
    """

    kind: str
    model: str
    number: int

    def response(
        self, settings: SiteSettings, study: Study, arrays: dict[str, Array], make: Callable[[str], StoredResponse]
    ) -> StoredResponse:
        """What was answered before, or what `make` makes of the question's digest.

        Raises:
            RefusedError: it was asked before with other arrays.
        """
        store, name = UpdateStore.of(settings.updates, study), f"{self.kind}-{self.number}"
        request_digest = digest_of(f"{study.digest()} {name}", arrays)
        with store.alone():
            stored = store.find(name, request_digest)
            if stored is None:
                self._refuse_another(settings, study, request_digest)
                stored = make(request_digest)
                store.keep(name, request_digest, stored)
            note_response(settings.site_budget().ledger, self.kind, study, self.model, request_digest)
        return stored

    def pay(self, settings: SiteSettings, study: Study, request_digest: str, *, one: Loss, left: Loss) -> None:
        """Put this step on the ledger, if it and all that follow keep within the site's budget.

        Args:
            settings: of the site.
            study: which.
            asked: digest of the question.
            one: what this step costs.
            left: what it and all later ones do.

        Raises:
            BudgetError: they would not; nothing is on the ledger then.
        """
        site_budget = settings.site_budget()
        if not is_paid(site_budget.ledger, self.kind, request_digest, one):
            site_budget.check([left])
            site_budget.spend(
                self.kind, one, study=study.digest(), model=self.model, question=request_digest, round=self.number
            )

    def _refuse_another(self, settings: SiteSettings, study: Study, request_digest: str) -> None:
        entries = since_removal(settings.site_budget().ledger, self.kind, study)
        if any(entry["question"] != request_digest for entry in entries if entry["round"] == self.number):
            raise RefusedError(
                f"round {self.number} of {self.model} asked with other arrays than before",
                expected="the same question",
            )
