"""How much emotion is left in what was released: the other side of the ledger of an anonymizer.

A new judge is one file in this package with the `utility_evaluator` decorator.
"""

from __future__ import annotations

from moretta.shared.audit.utility.emotion_row import EmotionRow
from moretta.shared.audit.utility.evaluate_utility import evaluate_utility
from moretta.shared.audit.utility.evaluator_registry import (
    UtilityEvaluator,
    evaluator_names,
    get_evaluator,
    utility_evaluator,
)

__all__ = [
    "EmotionRow",
    "UtilityEvaluator",
    "evaluate_utility",
    "evaluator_names",
    "get_evaluator",
    "utility_evaluator",
]
