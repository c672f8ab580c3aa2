"""What a steward sees of an offer before saying yes: what it is, what has changed, and what its arrays are."""

from __future__ import annotations

from typing import Any

from moretta.client.approval.comparison import compared_once, reconstruction_error
from moretta.client.approval.offers import Offer, Offers
from moretta.client.site_home import SiteHome
from moretta.shared.core.errors import HomeError
from moretta.shared.core.printable import printable

_TEXTS = {
    "equal": "made here again: equal",
    "close": "made here again: equal but for rounding",
    "different": "DIFFERENT from what this study gives here: look at it, or ask where it comes from",
    "unknown": "cannot be made here: what it does is not known",
}
_SHOWN = 80


def offer_named(home: SiteHome, named: str) -> Offer:
    """The offer whose digest begins so.

    Raises:
        HomeError: none does, or several do.
    """
    found = [offer for offer in Offers(home.root).all() if named and offer.digest.startswith(named)]
    if len(found) != 1:
        raise HomeError(
            f"{len(found)} offers whose digest begins with {named[:64]!r}",
            expected="one",
            fix="moretta site pending lists them",
        )
    return found[0]


def facts_of(home: SiteHome, offer: Offer) -> dict[str, Any]:
    """An offer as JSON: digests, changes against what was approved before, and a verdict on each array."""
    offers = Offers(home.root)
    decision, before = offers.decision(offer.digest), offers.last_approved(offer.study.name)
    verdicts = compared_once(offer)
    before = None if before is None or before.digest == offer.digest else before
    facts: dict[str, Any] = {
        "digest": offer.digest,
        "name": offer.study.name,
        "study": offer.study.digest(),
        "arrays_digest": offer.arrays_digest,
        "at": offer.at,
        "decision": None if decision is None else decision.decision,
        "approved_before": None if before is None else before.digest,
        "changed_keys": [] if before is None else _changed_keys(_content(before), _content(offer)),
        "changed_arrays": [] if before is None else _changed(before.facts, offer.facts),
        "arrays": verdicts,
    }
    if any(name.startswith("face/") for name in verdicts):
        facts["face_error"] = round(reconstruction_error(offer.study, offer.arrays()), 4)
    return facts


def as_text(facts: dict[str, Any]) -> list[str]:
    """The same for a person to read."""
    lines = [f"{facts['digest']}  {facts['name']}: {facts['decision'] or 'waits for your decision'}"]
    if facts["approved_before"]:
        changed = [*facts["changed_keys"], *(f"the array {name}" for name in facts["changed_arrays"])]
        lines.append(f"  not as it was approved before: {', '.join(changed) or 'nothing that shows'}")
    for verdict, words in _TEXTS.items():
        names = [name for name, found in facts["arrays"].items() if found == verdict]
        if names:
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            lines.append(f"  {shown}: {words}")
    if "face_error" in facts:
        error = facts["face_error"]
        lines.append(f"  the autoencoder gives public faces back with an error of {error}: 0 hides nothing")
    lines.append(f"  all arrays together: {facts['arrays_digest']}")
    return [printable(line) for line in lines]


def _content(offer: Offer) -> dict[str, Any]:
    return offer.study.model_dump(mode="json")


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
    """What a coordinator wrote, at a length that pushes nothing else off a screen."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
