"""The files of a zoo: JSON and CSV for scripts, one page for people."""

from __future__ import annotations

from pathlib import Path

from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.zoo_rows import COLUMNS, PLAIN, ZooReport, ZooRow, as_csv, figure_text
from moretta.shared.core.atomic import write_atomic

ZOO_PAGE, ZOO_CSV, ZOO_JSON = "zoo.html", "zoo.csv", "zoo.json"
_IDENTITY = "Emotion and identity"
_GROUPS = {_IDENTITY: ("uar", "top1", "eer", "speaker"), "Words": ("wer", "sentence"), "Sex": ("sex",)}
"""Tables of the page, by the beginnings of their columns; the last table has all others."""


def write_zoo(report: ZooReport, folder: Path) -> None:
    """Write all files, each whole or not at all. All are made in memory before the first is written."""
    files = {
        ZOO_CSV: as_csv(report.rows),
        ZOO_JSON: report.model_dump_json(indent=1) + "\n",
        ZOO_PAGE: render_zoo(report),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)


def render_zoo(report: ZooReport) -> str:
    """One HTML file that loads nothing."""
    groups = {title: [n for n in COLUMNS if n.startswith(starts)] for title, starts in _GROUPS.items()}
    taken = {name for names in groups.values() for name in names}
    groups["Training data, inversion and cost"] = [name for name in COLUMNS if name not in taken]
    systems: dict[str, list[ZooRow]] = {}
    for row in report.rows:
        systems.setdefault(row.system, []).append(row)
    reasons = dict.fromkeys(figure.why for row in report.rows for figure in row.figures.values() if figure.why)
    return render_page(
        "zoo.html",
        kind="zoo",
        name=report.name,
        synthetic=report.synthetic,
        z=report,
        groups=groups,
        columns=COLUMNS,
        plain=PLAIN,
        systems=systems,
        reasons={why: number for number, why in enumerate(reasons, start=1)},
        figure_text=figure_text,
        failed=[row for row in report.rows if row.failed or row.faults],
    )
