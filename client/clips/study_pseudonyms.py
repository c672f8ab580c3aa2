"""What clips and speakers are called: by the site itself, on its ledger, and by what it releases for one study.

The ledger adds up what a clip and a person lose in all studies, so it has one name for each. A coordinator who had one
name for each could do the same: what one study tells of a clip would be joined with the next. So every study has names
of its own, which nobody joins without the site's key, unless study and policy both ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moretta.client.accounting.account import COHORT
from moretta.client.accounting.ledger import Ledger
from moretta.shared.core.errors import RefusedError
from moretta.shared.core.pseudonym import PseudonymKey


@dataclass(frozen=True, slots=True)
class StudyPseudonyms:
    """The names of one study at one site."""

    key: PseudonymKey
    """The site's."""
    study: str | None
    """Digest of the study; None where its names are the site's own: by linkage, and in simulation, whose key anybody
    can derive."""

    def released(self, own: str) -> str:
        """The name that a release has for a clip or a speaker whom the ledger calls `own`: 16 hexadecimal digits."""
        return own if self.study is None else self.key.renamed(own, self.study)

    def own(self, ledger: Ledger) -> Mapping[str, str] | None:
        """The ledger's name of everything that was released, by its name in this study; None where both are the same.

        What was released is on the ledger, whatever became of the corpus since.
        """
        if self.study is None:
            return None
        cohorts = [entry["speakers"] for entry in ledger.entries(COHORT)]
        known = {name for cohort in cohorts for speaker, clips in cohort for name in (speaker, *clips)}
        return {self.released(name): name for name in known}

    def as_own(self, released: tuple[str, ...], ledger: Ledger) -> tuple[str, ...]:
        """The ledger's names of what a release names.

        Raises:
            RefusedError: one is not on the ledger.
        """
        own = self.own(ledger)
        if own is None:
            return released
        missing = sum(name not in own for name in released)
        if missing:
            raise RefusedError(
                f"{missing} names in a release that the privacy ledger does not know",
                expected="everything that was released, under this site's key",
                fix="restore pseudonym.key and ledger.jsonl from one copy: they belong together",
            )
        return tuple(own[name] for name in released)
