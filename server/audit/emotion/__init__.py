"""How much emotion is left in what was released: the other side of the ledger of an anonymizer.

A new judge is one file in this package with the `judge` decorator.
"""

from __future__ import annotations

from moretta.server.audit.emotion.base import Judge, get_judge, judge, judge_names
from moretta.server.audit.emotion.rows import EmotionRow
from moretta.server.audit.emotion.run import judge_emotion

__all__ = ["EmotionRow", "Judge", "get_judge", "judge", "judge_emotion", "judge_names"]
