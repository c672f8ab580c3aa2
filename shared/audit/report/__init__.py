"""The report: what a study found, as `report.json` for scripts and one self-contained `report.html` for people."""

from __future__ import annotations

from moretta.shared.audit.report.emotion import emotion_result, table_from_counts
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.load_report import ReportError, load_report
from moretta.shared.audit.report.report_files import write_html, write_report
from moretta.shared.audit.report.report_schema import Report

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
