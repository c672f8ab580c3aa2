"""Metrics of re-identification: pure functions of scores, each with its source, unit, range and chance value.

A score is larger the more alike an enrolment and a trial look. Metrics of three kinds are registered by name: those of
`Trials` (verification: one score a comparison), those of `Ranking` (identification: one row a trial, one column an
enrolled speaker), and those of `Similarity` (how alike the voices of every two speakers are, before and after).
`docs/attackers.md` shows how to write one.
"""

from __future__ import annotations

from moretta.shared.audit.metrics.distinctiveness import Similarity, similarity_matrix
from moretta.shared.audit.metrics.intervals import Interval, bootstrap_rows, bootstrap_trials
from moretta.shared.audit.metrics.metric import Metric, get_metric, leaks_when_low, metric, metrics_of
from moretta.shared.audit.metrics.scores import Ranking, Trials

__all__ = [
    "Interval",
    "Metric",
    "Ranking",
    "Similarity",
    "Trials",
    "bootstrap_rows",
    "bootstrap_trials",
    "get_metric",
    "leaks_when_low",
    "metric",
    "metrics_of",
    "similarity_matrix",
]
