"""Write a report: the JSON that scripts read, then the HTML that people read."""

from __future__ import annotations

from pathlib import Path

from moretta.shared.audit.report.html import render_html
from moretta.shared.audit.report.load_report import REPORT_JSON
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.core.atomic import write_atomic

REPORT_HTML = "report.html"


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all.

    Both are made in memory before either is written, so a report that cannot be rendered leaves the old files alone.

    Returns:
        The two paths, JSON first.
    """
    page = render_html(report)
    content = report.model_dump_json(indent=1) + "\n"
    write_atomic(folder / REPORT_JSON, content)
    write_atomic(folder / REPORT_HTML, page)
    return folder / REPORT_JSON, folder / REPORT_HTML


def write_html(report: Report, folder: Path) -> Path:
    """Write only `report.html`, for a report that was read back."""
    write_atomic(folder / REPORT_HTML, render_html(report))
    return folder / REPORT_HTML
