"""Metrics of re-identification: pure functions of scores, each with its source, unit, range and chance value.

A score is larger the more alike an enrolment and a trial look. Metrics of three kinds are registered by name: those of
`Trials` (verification: one score a comparison), those of `Ranking` (identification: one row a trial, one column an
enrolled speaker), and those of `Similarity` (how alike the voices of every two speakers are, before and after).
`docs/attackers.md` shows how to write one.
"""

from moretta.shared.audit.metrics.identification import Ranking
from moretta.shared.audit.metrics.scores import Trials, leaks_when_low, metric

__all__ = ["Ranking", "Trials", "leaks_when_low", "metric"]
