"""Sanity checks: which results may be believed, by what the attacker did on the two anchors."""

from __future__ import annotations

from collections.abc import Iterable

from moretta.shared.audit.attackers.base import Attacker, Embedder, get_attacker
from moretta.shared.audit.metrics import get_metric
from moretta.shared.audit.result import Result

CHANCE_TOLERANCE = 0.05
"""How far from chance the interval on constant data may end: with ties and few speakers it has no width."""
NO_ORIGINALS = (
    "no originals were given, so the unprotected anchor could not be run: checked by the constant anchor only"
)
_ANCHOR_METRICS = {"identification": "top1", "verification": "eer"}


def check_attackers(results: Iterable[Result], *, originals: bool) -> list[Result]:
    """The results of one modality, invalid where an anchor says that the attacker does not work.

    Args:
        results: of any number of attackers.
        originals: whether there was open data to check attackers on.
    """
    by_attacker: dict[str, list[Result]] = {}
    for result in results:
        by_attacker.setdefault(result.attacker, []).append(result)
    return [found for name, own in by_attacker.items() for found in _check(get_attacker(name), own, originals)]


def _check(cls: type[Attacker], results: list[Result], originals: bool) -> list[Result]:
    anchors = {(r.scenario, r.metric): r for r in results if r.subset == "all" and r.pooled == 1}
    reasons = {family: _failure(cls, anchors, family, originals) for family in _ANCHOR_METRICS}
    if not (issubclass(cls, Embedder) and cls.trainable):
        # One model answers both questions: if it fails one anchor, neither answer counts.
        reasons = dict.fromkeys(reasons, reasons["identification"] or reasons["verification"])
    checked = []
    for result in results:
        if not result.invalid and (reason := reasons[_family(result)]):
            checked.append(result.invalidated(reason))
        elif not result.invalid and not originals:
            checked.append(result.model_copy(update={"reason": NO_ORIGINALS}))
        else:
            checked.append(result)
    return checked


def _family(result: Result) -> str:
    # Pooled verification claims come from the ranking, and stand or fall with it.
    of_ranking = result.pooled > 1 or get_metric(result.metric).kind == "ranking"
    return "identification" if of_ranking else "verification"


def _failure(cls: type[Attacker], anchors: dict[tuple[str, str], Result], family: str, originals: bool) -> str:
    """Which sanity check the attacker failed; empty if it passed."""
    metric = _ANCHOR_METRICS[family]
    if originals:
        found = anchors.get(("unprotected", metric))
        if found is None or found.value is None:
            return f"it has no figure on unprotected data: {'it was not run' if found is None else found.reason}"
        if family == "verification" and found.value > cls.max_unprotected_eer:
            limit = f"at most {cls.max_unprotected_eer} wanted"
            return f"it cannot break unprotected data: EER {found.value:.3f} there, {limit}"
        if family == "identification" and not _above_chance(found):
            return f"it cannot break unprotected data: top-1 {found.value:.3f} there, chance {found.chance:.3f}"
    found = anchors.get(("constant", metric))
    if found is None or found.value is None or found.chance is None:
        return f"it has no figure on constant data: {'it was not run' if found is None else found.reason}"
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    if not low - CHANCE_TOLERANCE <= found.chance <= high + CHANCE_TOLERANCE:
        return f"it finds identity in constant data: {metric} {found.value:.3f} there, chance {found.chance:.3f}"
    return ""


def _above_chance(found: Result) -> bool:
    """Clearly above chance: the whole interval; without one, twice chance or halfway to certainty."""
    assert found.value is not None and found.chance is not None
    if found.low is not None:
        return found.low > found.chance
    return found.value >= min(2 * found.chance, (1 + found.chance) / 2)
