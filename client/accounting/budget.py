"""The budget of a site: limits on the losses of its clips and speakers over all studies, checked before a loss."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

from pydantic import Field

from moretta.client.accounting.account import AUDIENCES, COHORT, UNITS, Account, Audience, Loss, Unit
from moretta.client.accounting.ledger import Ledger
from moretta.client.site_home import OwnRecord
from moretta.shared.core.errors import BudgetError, RefusedError
from moretta.shared.privacy.accounting import composed_epsilon, epsilon_spent
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.mechanism import Mechanism, from_record
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

DP_SGD_KIND = "dp-sgd"
"""Ledger entry of DP-SGD of a study's model."""
RESPONSE_KIND = "answered"
"""Ledger entry of a response that is kept on disk and may have left. It has no loss of its own."""
REMOVED_KIND = "removed"
"""Ledger entry of what was made for a study and is used no more, since its clips have changed. Losses stay."""
_WAY_OUT = "take part in a study {}, or raise the limit in policy.toml, as those on the recordings agree"
Limit = Annotated[float, Field(gt=0, allow_inf_nan=True)]


class BudgetLimits(OwnRecord):
    """Limits on epsilon, at `delta`, for the clip and for the speaker that lose most. `inf` means no limit.

    `server` counts all that leaves the site, releases above all; `model` counts what the trained models alone reveal.
    Releases by anonymizers that the policy lets out without a guarantee have no epsilon that says anything; for these
    `unguaranteed` counts how often one clip is released, in one modality. A study that is run again, or goes on after a
    crash, sends the release it has, and counts once.

    The defaults let some studies of the usual size through and none without end: an epsilon of 30 is still a
    statement about a clip, one of 1,000 about a speaker with 80 clips is only a brake.
    """

    server_clip: Limit = 30.0
    server_speaker: Limit = 1000.0
    model_clip: Limit = 30.0
    model_speaker: Limit = 10000.0
    unguaranteed: Annotated[int, Field(ge=0)] = 5
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-3

    def limit(self, unit: Unit, audience: Audience) -> float:
        """One of the four limits."""
        value: float = getattr(self, f"{audience}_{unit}")
        return value

    @classmethod
    def unlimited(cls) -> BudgetLimits:
        """Limits that refuse nothing, for runs whose operator holds the clips."""
        limits: dict[str, Any] = {f"{audience}_{unit}": math.inf for audience in AUDIENCES for unit in UNITS}
        return cls(**limits, unguaranteed=sys.maxsize)

    def check(self, account: Account, planned: Sequence[Loss], *, without_guarantee: Collection[str] = ()) -> None:
        """Refuse losses that would lead beyond a limit, with a BudgetError. Releases by the anonymizers of
        `without_guarantee` are counted, and not added up."""
        after = account.with_planned(planned)
        times, before = after.most_releases(without_guarantee), account.most_releases(without_guarantee)
        if times > self.unguaranteed and times > before:
            raise BudgetError(
                f"a clip would be released {times} times without a guarantee, after {before} so far",
                expected=f"at most {self.unguaranteed} times (budget.unguaranteed)",
                fix=_WAY_OUT.format("whose anonymizers guarantee something"),
            )
        account, after = account.without(without_guarantee), after.without(without_guarantee)
        planned = [loss for loss in planned if loss.released_by is None or loss.released_by[1] not in without_guarantee]
        for audience, unit in product(AUDIENCES, UNITS):
            limit = self.limit(unit, audience)
            if limit == math.inf or not any(audience in loss.audiences for loss in planned):
                continue
            epsilon = after.epsilon(unit, audience, delta=self.delta)
            if epsilon is None or epsilon > limit * (1 + 1e-9):
                spent = _figure(account.epsilon(unit, audience, delta=self.delta))
                raise BudgetError(
                    f"a {unit} would lose {_figure(epsilon)} to the {audience}, after {spent} so far",
                    expected=f"at most {limit:g} at delta {self.delta:g} (budget.{audience}_{unit})",
                    fix=_WAY_OUT.format("that asks for less"),
                )


@dataclass(frozen=True, slots=True)
class SiteBudget:
    """A site's ledger with its limits: the one accountant of releases and of every training."""

    ledger: Ledger
    key: str
    """Fingerprint of the key that made the pseudonyms of clips and speakers."""
    budget: BudgetLimits
    without_guarantee: tuple[str, ...] = ()
    """Anonymizers that the policy lets release beyond its limit on epsilon."""

    def check(self, planned: Sequence[Loss]) -> None:
        """Refuse what is planned if it would exceed a limit, with a BudgetError; nothing is written."""
        self.budget.check(Account.read(self.ledger), planned, without_guarantee=self.without_guarantee)

    def spend(self, kind: str, loss: Loss, **entry: Any) -> None:
        """Write a loss to the ledger and return only when it is on disk.

        No other process can spend between the check of the limits and the entry. The loss names its cohort by a digest;
        the cohort itself is written once.

        Raises:
            BudgetError: the loss would exceed a limit; it is not written then.
            RefusedError: the ledger is broken, older than the server knows, or of another key.
        """
        cohort, known = loss.cohort, self.ledger.entries(COHORT)
        if others := {entry["key"] for entry in known} - {self.key}:
            # The same clip would have another name, and what it has lost so far would be forgotten
            raise RefusedError(
                "a pseudonym key that is not the one this privacy ledger was written under",
                expected=f"the key of fingerprint {sorted(others)[0]}",
                fix="restore pseudonym.key from the same copy as the ledger: they belong together",
            )
        if all(made["cohort"] != cohort.digest for made in known):
            speakers = [[speaker, list(clips)] for speaker, clips in cohort.speakers]
            self.ledger.spend(COHORT, cohort=cohort.digest, key=self.key, speakers=speakers)
        self.ledger.spend(kind, check=lambda: self.check([loss]), **entry, **loss.record())

    def pay_once(self, kind: str, loss: Loss, *, question: str, planned: Loss | None = None, **entry: Any) -> None:
        """`spend`, unless the ledger has this loss for a response to the same request that never left.

        Args:
            question: digest of the request; empty if it is never paid in advance.
            planned: this loss and all that will follow, which must keep within the limits together.
        """
        if not self.is_paid(kind, question, loss):
            if planned is not None:
                self.check([planned])
            self.spend(kind, loss, question=question, **entry)

    def is_paid(self, kind: str, question: str, loss: Loss) -> bool:
        """Whether the ledger has this very loss for a response that never left, because the site died over it.

        Nobody saw it, so computing it anew, with new noise, costs nothing more.
        """
        record = json.loads(json.dumps(loss.record()))
        paid = self.ledger.entries(kind, question=question, **record) if question else []
        return len(paid) > len(self.ledger.entries(RESPONSE_KIND, question=question))

    def note_response(self, kind: str, study: Study, model: str, question: str) -> None:
        """Write that a response is about to leave: what is computed for this request from here on costs again."""
        paid, responses = (self.ledger.entries(k, question=question) for k in (kind, RESPONSE_KIND))
        if len(paid) > len(responses):
            self.ledger.spend(RESPONSE_KIND, study=study.digest(), model=model, question=question)

    def since_removal(self, kind: str, study: Study) -> list[dict[str, Any]]:
        """Entries of a kind about what is still in use for a study, oldest first."""
        found: list[dict[str, Any]] = []
        for entry in self.ledger.all_entries():
            if entry["kind"] == REMOVED_KIND and entry.get("study") == study.digest():
                found.clear()
            elif entry["kind"] == kind and entry.get("study") == study.digest():
                found.append(entry)
        return found


def spent(
    ledger: Ledger, study: Study, *, planned: Sequence[SampledGaussian] = (), kind: ModelKind | None = None
) -> float:
    """Epsilon that DP-SGD has spent at this site for this study, over all models, rounds and restarts.

    Models that learn on the same clips add up; of those that have no clip in common the largest sum counts.

    `planned` are rounds of `kind`, by default the first model, that count as if they had been made.
    """
    found = [0.0]
    for group in study.sharing_clips:
        losses = _losses(ledger, study, group, study.privacy.unit)
        steps = [part for part in losses if isinstance(part, SampledGaussian) and part.is_plain]
        steps += planned if (kind or study.models[0]) in group else ()
        found.append(epsilon_spent(steps, delta=study.privacy.delta, accountant=study.privacy.accountant))
    return max(found)


def levels(ledger: Ledger, study: Study) -> dict[Unit, float]:
    """Epsilon that DP-SGD has spent of the unit that is not the study's, if there is a finite figure."""
    found: dict[Unit, float] = {}
    for unit in (unit for unit in UNITS if unit != study.privacy.unit):
        apart = unit == "clip" or study.privacy.unit == "speaker"  # a speaker may have clips in both parts
        groups = study.sharing_clips if apart else (study.models,)
        sums = [composed_epsilon(_losses(ledger, study, g, unit), delta=study.privacy.delta) for g in groups]
        known = [epsilon for epsilon in sums if epsilon is not None]
        if len(known) == len(sums):
            found[unit] = max(known)
    return found


def _losses(ledger: Ledger, study: Study, kinds: Collection[ModelKind], unit: Unit) -> list[Mechanism]:
    """Losses of one unit by DP-SGD of these models."""
    entries = ledger.entries(DP_SGD_KIND, study=study.digest())
    return [from_record(r) for e in entries if e["model"].split("/")[0] in kinds for r in e["losses"][unit]]


def _figure(epsilon: float | None) -> str:
    return "more than any epsilon" if epsilon is None else f"epsilon {epsilon:.3f}"
