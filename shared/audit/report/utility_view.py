"""The lines of the table of utility evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.result import Result


@dataclass(frozen=True, slots=True)
class EvaluatorLine:
    """One evaluator: on originals, on releases, and trained on originals but tested on releases."""

    evaluator: str
    modality: str
    kind: str
    rows: tuple[Result | None, Result | None, Result | None]
    chance: float
    reason: str
    """Why there is no figure at all; empty if there is one."""


def evaluator_lines(rows: Sequence[Result]) -> list[EvaluatorLine]:
    """One line for each evaluator, in the order of the rows. A pretrained evaluator has no third column."""
    return [
        _line([row for row in rows if row.attacker == name]) for name in dict.fromkeys(row.attacker for row in rows)
    ]


def _line(rows: list[Result]) -> EvaluatorLine:
    found = {row.scenario: row for row in rows if row.value is not None}
    columns = found.get("unprotected"), found.get("semi-informed"), found.get("ignorant")
    if rows[0].kind == "pretrained":
        columns = found.get("unprotected"), found.get("ignorant"), None
    reason = "" if any(columns) else rows[0].reason
    return EvaluatorLine(rows[0].attacker, rows[0].modality, rows[0].kind, columns, rows[0].chance or 0.0, reason)
