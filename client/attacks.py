"""A site runs an approved attacker on its own originals and its release, and says how the scores are distributed.

It is a disclosure that no epsilon covers. So the policy must allow it, what leaves is bounded and rounded, the ledger
has it before it leaves, and the same request gets the response that is kept.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from moretta.client.clips.originals import original_and_released
from moretta.client.clips.site_clips import site_corpus
from moretta.client.offers import Offers
from moretta.client.settings import SiteSettings
from moretta.shared.core.atomic import locked, private_folder, write_atomic
from moretta.shared.core.errors import RefusedError, ReleaseError
from moretta.shared.messages.wire import LEVELS
from moretta.shared.release import open_release
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

SCORES_KIND = "scores"
"""Ledger entry of scores of originals. It has no loss, since no epsilon covers them."""
Scores = dict[str, Any]
"""Counts of mated and of non-mated comparisons by scenario, and under `speakers` the number of people in them."""


def respond_to_attack(settings: SiteSettings, study: Study, attacker: str, approval: str) -> Scores:
    """Counts of the scores of one attacker.

    Args:
        approval: digest of the offer, with what the attacker has learned.

    Raises:
        PolicyError: the policy does not allow it, or not so much of it.
        RefusedError: an attacker that the study does not name, or originals that the server has anyway.
        ReleaseError: nothing was released that could be compared.
    """
    from moretta.shared.audit.site_attacks import attacker_of, score

    policy = settings.policy
    if policy is None:
        raise RefusedError("an attack on originals in a simulation", expected="a real site")
    policy.check_attack(study)
    if attacker not in study.audit.at_sites:
        expected = ", ".join(study.audit.at_sites) or "none"
        raise RefusedError(f"a request for the attacker {attacker!r}", expected=f"one of the study's: {expected}")
    offer = Offers(settings.home).approved(study, approval)
    model = attacker_of(attacker, offer.arrays())
    kept = settings.attacks / study.digest()[:16] / f"{attacker}-{offer.digest[:16]}.json"
    private_folder(kept.parent)
    with locked(kept.with_suffix(".lock")):  # two at once would be two disclosures
        if kept.exists():
            found: Scores = json.loads(kept.read_text(encoding="utf-8"))
            return found
        if not (settings.release_of(study) / STATEMENT_FILE).exists():
            raise ReleaseError("a request for an attack before a release", expected="a finished release")
        release, (corpus, clips) = open_release(settings.release_of(study)), site_corpus(settings, study)
        pairs = original_and_released(settings, study, release, corpus, clips)
        sets = next(((original, released) for original, released in pairs if released.modality == model.modality), None)
        if sets is None:
            raise ReleaseError(f"an attack on {model.modality}", expected=f"one on {', '.join(release.modalities)}")
        # The comparisons are drawn by the system's generator: nobody else knows which clips are compared
        scores, people = score(model, *sets, seed=secrets.randbits(32))
        ledger, size = settings.site_budget().ledger, sum(sum(map(sum, each)) for each in scores.values())

        def check() -> None:
            before = sum(entry["scores"] for entry in ledger.entries(SCORES_KIND))
            policy.check_attack(study, speakers=len(people), scores=before + size)

        ledger.spend(
            SCORES_KIND,
            check=check,
            study=study.digest(),
            model=attacker,
            approval=offer.digest,
            scores=size,
            levels=LEVELS,
            speakers=len(people),
            guarantee="none",
        )
        made: Scores = {scenario: [list(part) for part in each] for scenario, each in scores.items()}
        made["speakers"] = len(people)
        write_atomic(kept, json.dumps(made), mode=0o600)
        return made
