"""The report: what a study found, as `report.json` for scripts and one self-contained `report.html` for people."""

from __future__ import annotations

from moretta.server.report.emotion import emotion_result, table_from_counts
from moretta.server.report.headline import headlines
from moretta.server.report.load import ReportError, load_report
from moretta.server.report.schema import Report
from moretta.server.report.write import write_html, write_report

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
