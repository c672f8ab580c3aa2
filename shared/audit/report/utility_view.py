"""The lines of the table of judges of emotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.utility.emotion_row import EmotionRow


@dataclass(frozen=True, slots=True)
class EvaluatorLine:
    """One judge: on originals, on releases, and made for originals but asked about releases."""

    evaluator: str
    modality: str
    kind: str
    rows: tuple[EmotionRow | None, EmotionRow | None, EmotionRow | None]
    chance: float
    reason: str
    """Why there is no figure at all; empty if there is one."""


def evaluator_lines(rows: Sequence[EmotionRow]) -> list[EvaluatorLine]:
    """One line for each judge, in the order of the rows. A pretrained judge has no third column: it is its second."""
    return [
        _line([row for row in rows if row.evaluator == name]) for name in dict.fromkeys(row.evaluator for row in rows)
    ]


def _line(rows: list[EmotionRow]) -> EvaluatorLine:
    def pick(evaluated_on: str, trained_on: set[str]) -> EmotionRow | None:
        found = (r for r in rows if r.evaluated_on == evaluated_on and r.trained_on in trained_on and r.uar is not None)
        return next(found, None)

    columns = (
        pick("original", {"original", "public"}),
        pick("released", {"released", "public"}),
        pick("released", {"original"}),
    )
    reason = "" if any(columns) else rows[0].reason
    return EvaluatorLine(rows[0].evaluator, rows[0].modality, rows[0].kind, columns, rows[0].chance, reason)
