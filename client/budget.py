"""How much a site lets its clips and speakers lose in all, over every study: checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from moretta.client.account import AUDIENCES, UNITS, Account, Audience, Loss, Unit, note_cohort
from moretta.client.ledger import Ledger
from moretta.shared.errors import BudgetError

Limit = Annotated[float, Field(gt=0, allow_inf_nan=True)]


class Budget(BaseModel):
    """Limits on epsilon, at `delta`, for the clip and for the speaker that lose most. `inf` means no limit.

    `server` counts all that leaves the site, releases above all; `model` counts what the trained models alone tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server_clip: Limit = math.inf
    server_speaker: Limit = math.inf
    model_clip: Limit = math.inf
    model_speaker: Limit = math.inf
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-3

    def limit(self, unit: Unit, audience: Audience) -> float:
        """One of the four limits."""
        value: float = getattr(self, f"{audience}_{unit}")
        return value

    def check(self, account: Account, planned: Sequence[Loss]) -> None:
        """Refuse losses that would lead beyond a limit.

        Raises:
            BudgetError: naming the limit, what has been spent and what it would become.
        """
        after = account.with_planned(planned)
        for audience in AUDIENCES:
            for unit in UNITS:
                limit = self.limit(unit, audience)
                if limit == math.inf or not any(audience in loss.audiences for loss in planned):
                    continue
                epsilon = after.epsilon(unit, audience, delta=self.delta)
                if epsilon is None or epsilon > limit * (1 + 1e-9):
                    before = account.epsilon(unit, audience, delta=self.delta)
                    raise BudgetError(
                        f"a {unit} would lose {_figure(epsilon)} to the {audience}, after {_figure(before)} so far",
                        expected=f"at most {limit:g} at delta {self.delta:g} (budget.{audience}_{unit})",
                        fix="take part in a study that asks for less, or raise the limit in policy.toml, as those on "
                        "the recordings agree",
                    )


@dataclass(frozen=True, slots=True)
class Purse:
    """A site's ledger with the limits on it: the one way to spend."""

    ledger: Ledger
    key: str
    """Fingerprint of the key that made the pseudonyms of clips and speakers."""
    budget: Budget

    def spend(self, kind: str, loss: Loss, **entry: Any) -> None:
        """Write a loss to the ledger and return only when it is on disk.

        No other process can spend between the look at the limits and the entry.

        Raises:
            BudgetError: the loss would lead beyond a limit; it is not written then.
            RefusedError: the ledger is broken, older than the server knows, or of another key.
        """
        note_cohort(self.ledger, loss.cohort, key=self.key)
        self.ledger.spend(
            kind, check=lambda ledger: self.budget.check(Account.read(ledger), [loss]), **entry, **loss.record()
        )

    def check(self, planned: Sequence[Loss]) -> None:
        """Refuse what is planned if it would lead beyond a limit; nothing is written.

        Raises:
            BudgetError: it would.
        """
        self.budget.check(Account.read(self.ledger), planned)


def _figure(epsilon: float | None) -> str:
    return "more than any epsilon" if epsilon is None else f"epsilon {epsilon:.3f}"
