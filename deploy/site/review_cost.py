"""Privacy loss of a site's clips and people by an approval: on its ledger now, and after the study's last round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from moretta.client.accounting.account import AUDIENCES, UNITS, Account, Audience, Cohort, Loss, Unit
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import training_ahead
from moretta.client.settings import SiteSettings
from moretta.deploy.site.review import Review
from moretta.deploy.site.review_choice import SiteClip
from moretta.shared.core.errors import BudgetError
from moretta.shared.core.terms import Modality
from moretta.shared.privacy.accounting import training_losses
from moretta.shared.release.release_format import STATEMENT_FILE


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the budget: epsilon of the clip or person that loses most, over all studies."""

    audience: Audience
    unit: Unit
    now: float | None
    """Epsilon now; None means no finite figure."""
    after: float | None
    limit: float


@dataclass(frozen=True, slots=True)
class Costs:
    """All lines, and whether the site's budget allows the approval."""

    lines: tuple[Cost, ...]
    times: tuple[int, int, int]
    """Releases without a guarantee of the clip that has most: now, afterwards, and at most."""
    refusal: str
    """The reason why the budget will refuse the study; empty if it will not."""
    is_paid: bool
    """Whether the release has been made: to send it again costs nothing."""


def costs(settings: SiteSettings, review: Review, included: Sequence[SiteClip]) -> Costs:
    """The costs of approving these clips.

    Args:
        settings: of the site, whose ledger counts.
        review: made under the site's own names, with its losses on the review's ledger.
        included: clips that would be approved. The loss of a person is that of all their clips.
    """
    policy = settings.policy
    assert policy is not None
    account, budget = Account.read(Ledger(settings.ledger)), policy.budget
    is_paid = (settings.release_of(review.study) / STATEMENT_FILE).exists()
    planned = [] if is_paid else _planned(review, included)
    after, refusal = account.with_planned(planned), ""
    try:
        budget.check(account, planned, without_guarantee=policy.without_guarantee)
    except BudgetError as error:
        refusal = error.message
    counted = [each.without(policy.without_guarantee) for each in (account, after)]
    lines = []
    for audience, unit in product(AUDIENCES, UNITS):
        epsilons = [each.epsilon(unit, audience, delta=budget.delta) for each in counted]
        lines.append(Cost(audience, unit, epsilons[0], epsilons[1], budget.limit(unit, audience)))
    times = [each.most_releases(policy.without_guarantee) for each in (account, after)]
    return Costs(tuple(lines), (times[0], times[1], budget.unguaranteed), refusal, is_paid)


def _planned(review: Review, included: Sequence[SiteClip]) -> list[Loss]:
    """Losses by the release, and by the training that follows, of what is included."""
    key = review.settings.pseudonyms()
    names = {key.clip(row.clip.name) for row in included}
    planned: list[Loss] = []
    released: dict[Modality, list[tuple[str, str]]] = {}
    for loss in Account.read(Ledger(review.settings.ledger)).losses:
        assert loss.released_by is not None
        pairs = [(s, clip) for s, clips in loss.cohort.speakers for clip in clips if clip in names]
        planned.append(replace(loss, cohort=Cohort.of(pairs)))
        released[loss.released_by[0]] = pairs  # type: ignore[index]
    if (code := review.study.site_training) is not None:  # of everybody, though some will be held out
        cohort = Cohort.of(released.get(review.study.trained_modalities[0], []))
        planned.append(Loss(cohort, AUDIENCES, training_losses(code, cohort.most_clips)))
    return planned + training_ahead(review.settings, review.study, released)


def limit_text(limit: float) -> str:
    """A limit for a person."""
    return "none" if limit == math.inf else f"{limit:g}"
