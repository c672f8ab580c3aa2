"""What the audit of a candidate's release says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moretta.deploy.choose.rule import Candidate
from moretta.deploy.sweep.done import CellAudit
from moretta.shared.audit.audit_row import AuditRow, headline
from moretta.shared.audit.scenarios import get_scenario
from moretta.shared.audit.utility import EmotionRow
from moretta.shared.core.terms import Modality
from moretta.shared.study.schema import Study

ALL_INVALID = "every attacker is invalid: nothing is known of what it leaks"
NOT_EVALUATED = "no judge that was trained on releases could be asked"
BELOW_CHANCE = (
    "every attacker is wrong more often than guessing is, intervals included: "
    "that is a leak which an attacker that turns answers round would find"
)
FEWER_EMOTIONS = "not every emotion was released: its UAR answers an easier question than the others'"
_Values = dict[str, Any]


def weigh(
    name: str, study: Study, audited: CellAudit | None, *, modality: Modality, emotions: int, why: str = ""
) -> Candidate:
    """Put a candidate together.

    Args:
        name: what the table calls it.
        study: the one that its release was made by.
        audited: what attackers and judges found; None if that failed.
        modality: of voice and face, the one that is chosen for.
        emotions: how many occur in the corpus.
        why: it failed.
    """
    section = section_of(study, modality)
    if audited is None:
        return Candidate(name=name, modality=modality, section=section, excluded=why or "its audit failed")
    if not_run := audited.not_run.get(modality):
        return Candidate(name=name, modality=modality, section=section, excluded=not_run)
    found = {**_attacked(audited.rows, modality), **_utility(audited.utility, modality)}
    return Candidate(name=name, modality=modality, section=section, excluded=_excluded(found, emotions), **found)


def section_of(study: Study, modality: Modality) -> dict[str, Any]:
    """`[voice]` or `[face]` of a study file that makes the same release; what is the default is left out."""
    section = study.section(modality)
    plain = type(section)().model_dump(mode="json")
    return {key: value for key, value in section.model_dump(mode="json").items() if value != plain[key]}


def _excluded(found: _Values, emotions: int) -> str:
    if found.get("top1") is None:
        return ALL_INVALID
    if found["top1_upper"] < found["top1_chance"]:
        return BELOW_CHANCE
    if found.get("uar") is None:
        return NOT_EVALUATED
    return FEWER_EMOTIONS if found["uar_chance"] > 1.001 / emotions else ""


def _attacked(rows: Sequence[AuditRow], modality: Modality) -> _Values:
    part = next((p for p in headline(rows) if p.modality == modality), None)
    if part is None or part.top1 is None or part.top1.value is None:
        return {}
    counted = [r for r in _counted(rows, modality) if r.metric == "top1"]
    single = [r for r in counted if r.pooled == 1]
    found: _Values = {
        "top1": part.top1.value,
        "top1_upper": max(_upper(row) for row in single),
        "top1_chance": part.top1.chance,
        "top1_by": _who(part.top1),
        "attackers": len({row.attacker for row in single}),
    }
    if pooled := [r for r in counted if r.pooled > 1]:
        most = max(pooled, key=lambda row: row.value or 0.0)
        found |= {"top1_pooled": most.value, "pooled": most.pooled}
    if part.eer is not None:
        found |= {"eer": part.eer.value, "eer_by": _who(part.eer)}
    return found


def _counted(rows: Sequence[AuditRow], modality: Modality) -> list[AuditRow]:
    """Attacks on releases, of all people, that are not invalid."""
    whole = [r for r in rows if r.modality == modality and r.subset == "all" and not r.invalid and r.value is not None]
    return [row for row in whole if not get_scenario(row.scenario).anchor]


def _upper(row: AuditRow) -> float:
    """Without an interval all there is to go by is the figure."""
    assert row.value is not None
    return row.value if row.high is None else max(row.high, row.value)


def _utility(rows: Sequence[EmotionRow], modality: Modality) -> _Values:
    there = [r for r in rows if r.modality == modality and r.trained_on == r.evaluated_on == "released"]
    best = max((r for r in there if r.uar is not None), key=lambda row: row.uar or 0.0, default=None)
    if best is None:
        return {}
    return {
        "uar": best.uar,
        "uar_low": best.low,
        "uar_high": best.high,
        "uar_chance": best.chance,
        "evaluator": best.evaluator,
    }


def _who(row: AuditRow) -> str:
    return f"{row.attacker} ({row.scenario})"
