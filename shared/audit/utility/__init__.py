"""How much emotion is left in what was released: the other side of the ledger of an anonymizer.

A new judge is one file in this package with the `judge` decorator.
"""

from __future__ import annotations

from moretta.shared.audit.utility.base import Judge, get_judge, judge, judge_names
from moretta.shared.audit.utility.rows import EmotionRow
from moretta.shared.audit.utility.run import judge_emotion

__all__ = ["EmotionRow", "Judge", "get_judge", "judge", "judge_emotion", "judge_names"]
