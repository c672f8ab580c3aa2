"""The report: what a study found, as `report.json` for scripts and one self-contained `report.html` for people."""

from __future__ import annotations

from moretta.shared.audit.report.emotion import emotion_result, table_from_counts
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.load import ReportError, load_report
from moretta.shared.audit.report.schema import Report
from moretta.shared.audit.report.write import write_html, write_report

__all__ = [
    "Report",
    "ReportError",
    "emotion_result",
    "headlines",
    "load_report",
    "table_from_counts",
    "write_html",
    "write_report",
]
