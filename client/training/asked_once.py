"""Questions that a study asks once: one answer to each, alike however often it is asked, and paid for once.

What sites learn together before they release is learnt in numbered steps. An answer is on the ledger before it is made
and kept before it leaves, so that a site that died over it has neither paid nor answered twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moretta.client.accounting.account import Loss
from moretta.client.settings import SiteSettings
from moretta.client.training.answered import is_paid, note_answered, since_removal
from moretta.client.training.updates import Array, Update, UpdateStore, digest_of
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

    def answer(
        self, settings: SiteSettings, study: Study, arrays: dict[str, Array], make: Callable[[str], Update]
    ) -> Update:
        """What was answered before, or what `make` makes of the question's digest.

        Raises:
            RefusedError: it was asked before with other arrays.
        """
        store, name = UpdateStore.of(settings.updates, study), f"{self.kind}-{self.number}"
        asked = digest_of(f"{study.digest()} {name}", arrays)
        with store.alone():
            kept = store.find(name, asked)
            if kept is None:
                self._refuse_another(settings, study, asked)
                kept = make(asked)
                store.keep(name, asked, kept)
            note_answered(settings.purse().ledger, self.kind, study, self.model, asked)
        return kept

    def pay(self, settings: SiteSettings, study: Study, asked: str, *, one: Loss, left: Loss) -> None:
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
        purse = settings.purse()
        if not is_paid(purse.ledger, self.kind, asked, one):
            purse.check([left])
            purse.spend(self.kind, one, study=study.digest(), model=self.model, question=asked, round=self.number)

    def _refuse_another(self, settings: SiteSettings, study: Study, asked: str) -> None:
        entries = since_removal(settings.purse().ledger, self.kind, study)
        if any(entry["question"] != asked for entry in entries if entry["round"] == self.number):
            raise RefusedError(
                f"round {self.number} of {self.model} asked with other arrays than before",
                expected="the same question",
            )
