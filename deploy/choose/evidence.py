"""What the audit of a candidate's release says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moretta.deploy.choose.rule import Candidate
from moretta.deploy.sweep.sweep_results import CellAudit
from moretta.shared.audit.result import Result, strongest, strongest_of_each
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


def _attacked(rows: Sequence[Result], modality: Modality) -> _Values:
    mine = [row for row in rows if row.modality == modality and not row.is_anchor]
    best = {row.metric: row for row in strongest_of_each(mine)}
    if (top1 := best.get("top1")) is None:
        return {}
    single = [row for row in mine if row.metric == "top1" and row.is_whole]
    found: _Values = {
        "top1": top1.value,
        "top1_upper": max(_upper(row) for row in single),
        "top1_chance": top1.chance,
        "top1_by": _who(top1),
        "attackers": len({row.attacker for row in single}),
    }
    pooled = strongest(row for row in mine if row.metric == "top1" and row.subset == "all" and row.pooled > 1)
    if pooled is not None:
        found |= {"top1_pooled": pooled.value, "pooled": pooled.pooled}
    if (eer := best.get("eer")) is not None:
        found |= {"eer": eer.value, "eer_by": _who(eer)}
    return found


def _upper(row: Result) -> float:
    """Without an interval all there is to go by is the figure."""
    assert row.value is not None
    return row.value if row.high is None else max(row.high, row.value)


def _utility(rows: Sequence[Result], modality: Modality) -> _Values:
    best = strongest(row for row in rows if row.modality == modality and row.scenario == "semi-informed")
    if best is None:
        return {}
    return {
        "uar": best.value,
        "uar_low": best.low,
        "uar_high": best.high,
        "uar_chance": best.chance,
        "evaluator": best.attacker,
    }


def _who(row: Result) -> str:
    return f"{row.attacker} ({row.scenario})"
