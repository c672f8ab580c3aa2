"""Invalid, not private: which rows may be believed, by what the attacker did on the two anchors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moretta.shared.audit.attackers.attacker_registry import Attacker, Embedder, get_attacker
from moretta.shared.audit.audit_row import AuditRow
from moretta.shared.audit.metrics import get_metric
from moretta.shared.audit.scenarios import ScenarioName

CHANCE_TOLERANCE = 0.05
"""How far from chance the interval on constant data may end: with ties and few speakers it has no width."""
NO_ORIGINALS = "no originals were given, so the unprotected anchor could not be run: judged by the constant anchor only"

Family = Literal["identification", "verification"]


@dataclass(frozen=True)
class _Anchors:
    rows: dict[tuple[ScenarioName, str], AuditRow]

    def of(self, scenario: ScenarioName, metric: str) -> AuditRow | None:
        return self.rows.get((scenario, metric))


def mark_invalid(rows: Iterable[AuditRow], *, originals: bool) -> list[AuditRow]:
    """The rows of one modality, invalid where an anchor says that the attacker does not work.

    Args:
        rows: of any number of attackers.
        originals: whether there was open data to be judged on.
    """
    by_attacker: dict[str, list[AuditRow]] = {}
    for row in rows:
        by_attacker.setdefault(row.attacker, []).append(row)
    return [row for name in by_attacker for row in _mark_one(get_attacker(name), by_attacker[name], originals)]


def _mark_one(cls: type[Attacker], rows: list[AuditRow], originals: bool) -> list[AuditRow]:
    anchors = _Anchors({(r.scenario, r.metric): r for r in rows if r.subset == "all" and r.pooled == 1})
    families: tuple[Family, ...] = ("identification", "verification")
    reasons = {family: _reason(cls, anchors, family, originals) for family in families}
    if not (issubclass(cls, Embedder) and cls.trainable):
        # One model answers both questions: if it fails one anchor, neither answer counts.
        either = reasons["identification"] or reasons["verification"]
        reasons = dict.fromkeys(families, either)
    note = "" if originals else NO_ORIGINALS
    return [_marked(row, reasons[_family(row)], note) for row in rows]


def _marked(row: AuditRow, reason: str, note: str) -> AuditRow:
    if row.invalid:
        return row
    if reason:
        return row.model_copy(update={"invalid": True, "reason": reason})
    return row.model_copy(update={"reason": note}) if note else row


def _family(row: AuditRow) -> Family:
    # Pooled verification claims come from the ranking, and stand or fall with it.
    if row.pooled > 1 or get_metric(row.metric).kind == "ranking":
        return "identification"
    return "verification"


def _reason(cls: type[Attacker], anchors: _Anchors, family: Family, originals: bool) -> str:
    metric = "top1" if family == "identification" else "eer"
    if originals:
        row = anchors.of("unprotected", metric)
        if row is None or row.value is None:
            return f"it has no figure on unprotected data: {row.reason if row is not None else 'it was not run'}"
        if family == "verification" and row.value > cls.max_unprotected_eer:
            return (
                f"it cannot break unprotected data: EER {row.value:.3f} there, at most {cls.max_unprotected_eer} wanted"
            )
        if family == "identification" and not _above(row):
            return f"it cannot break unprotected data: top-1 {row.value:.3f} there, chance {row.chance:.3f}"
    row = anchors.of("constant", metric)
    if row is None or row.value is None:
        return f"it has no figure on constant data: {row.reason if row is not None else 'it was not run'}"
    low, high = row.low if row.low is not None else row.value, row.high if row.high is not None else row.value
    if not low - CHANCE_TOLERANCE <= row.chance <= high + CHANCE_TOLERANCE:
        return f"it finds identity in constant data: {metric} {row.value:.3f} there, chance {row.chance:.3f}"
    return ""


def _above(row: AuditRow) -> bool:
    """Clearly above chance: the whole interval; without one, twice chance or halfway to certainty."""
    assert row.value is not None
    if row.low is not None:
        return row.low > row.chance
    return row.value >= min(2 * row.chance, (1 + row.chance) / 2)
