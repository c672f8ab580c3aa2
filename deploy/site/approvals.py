"""An offer as the steward sees it before deciding: its study, what has changed, and whether its arrays are known."""

from __future__ import annotations

from typing import Any

from moretta.client.offers import Offer, Offers
from moretta.client.policy import Policy
from moretta.client.site_home import SiteHome
from moretta.shared.core.errors import HomeError
from moretta.shared.core.printable import printable
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.schema import Study

_VERDICTS = {
    "equal": "made here again: equal",
    "close": "made here again: equal but for rounding",
    "different": "DIFFERENT from what this study gives here: look at it, or ask where it comes from",
    "unknown": "cannot be made here: what it does is not known",
}
_SHOWN = 80


def find_offer(home: SiteHome, digest: str) -> Offer:
    """The offer whose digest begins with this; where none does, or several do, that is a HomeError."""
    found = [offer for offer in Offers(home.root).all() if digest and offer.digest.startswith(digest)]
    if len(found) != 1:
        begins = f"{len(found)} offers whose digest begins with {digest[:64]!r}"
        raise HomeError(begins, expected="one", fix="moretta site pending lists them")
    return found[0]


def offer_facts(home: SiteHome, offer: Offer) -> dict[str, Any]:
    """An offer as JSON: digests, changes against what was approved before, and a verdict on each array."""
    offers = Offers(home.root)
    decision, before = offers.decision(offer.digest), offers.last_approved(offer.study.name)
    before = None if before is None or before.digest == offer.digest else before
    facts: dict[str, Any] = {
        "digest": offer.digest,
        "name": offer.study.name,
        "study": offer.study.digest(),
        "arrays_digest": offer.arrays_digest,
        "at": offer.at,
        "decision": None if decision is None else decision.decision,
        "approved_before": None if before is None else before.digest,
        "changed_keys": [],
        "changed_arrays": [],
        "arrays": offer.compared(),
    }
    if before is not None:
        old, new = before.study.model_dump(mode="json"), offer.study.model_dump(mode="json")
        names = {*before.facts, *offer.facts}
        facts["changed_keys"] = _changed_keys(old, new)
        facts["changed_arrays"] = sorted(n for n in names if before.facts.get(n) != offer.facts.get(n))
    facts["attacks_at_sites"] = attack_lines(offer.study, Policy.load(home.policy_file))
    for modality in offer.study.modalities:
        strength = anonymizer_of(offer.study, modality).public_strength(offer.study, offer.arrays())
        facts |= {name: round(value, 4) for name, value in strength.items()}
    return facts


def offer_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of an offer for a person."""
    lines = [f"{facts['digest']}  {facts['name']}: {facts['decision'] or 'waits for your decision'}"]
    if facts["approved_before"]:
        changed = [*facts["changed_keys"], *(f"the array {name}" for name in facts["changed_arrays"])]
        lines.append(f"  not as it was approved before: {', '.join(changed) or 'nothing that shows'}")
    for verdict, text in _VERDICTS.items():
        names = [name for name, found in facts["arrays"].items() if found == verdict]
        if names:
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            lines.append(f"  {shown}: {text}")
    lines += [f"  {line}" for line in facts["attacks_at_sites"]]
    if "face_error" in facts:
        error = facts["face_error"]
        lines.append(f"  the autoencoder gives public faces back with an error of {error}: 0 hides nothing")
    lines.append(f"  all arrays together: {facts['arrays_digest']}")
    return [printable(line) for line in lines]


def attack_lines(study: Study, policy: Policy) -> list[str]:
    """Lines on the attacks on its own originals that a study requests of the site; empty if it requests none."""
    if not study.audit.at_sites:
        return []
    allowed = "allows" if policy.allow_attacks else "refuses"
    return [
        f"requests that this site attacks its own originals with {', '.join(study.audit.at_sites)}",
        f"at most {policy.max_attack_scores} rounded scores of all studies would leave, without names",
        "no epsilon covers them; the ledger counts them",
        f"your policy {allowed} this part (allow_attacks); the rest of the study does not depend on it",
    ]


def _changed_keys(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{_short(key)} ({_short(repr(old))} -> {_short(repr(new))})")
    return found


def _short(text: str) -> str:
    """Text from a coordinator, cut so that it pushes nothing else off a screen."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
