"""The files of a zoo: JSON and CSV for scripts, one page for people.

The page has no script. Each order of its leaderboard is a table, and a radio button shows one of them; a check box
hides the rows of a system. So it works from a file, without a network, by keyboard, and under a policy that allows one
style sheet. A browser that does not know `:has` shows the first order, and all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.sweep_rows import pareto_front
from moretta.shared.audit.report.zoo_rows import COLUMNS, MEAN, PLAIN, ZooFigure, ZooReport, ZooRow, as_csv, figure_text
from moretta.shared.core.atomic import write_atomic

ZOO_PAGE, ZOO_CSV, ZOO_JSON = "zoo.html", "zoo.csv", "zoo.json"
_IDENTITY = "Emotion and identity"
_GROUPS = {
    _IDENTITY: ("uar", "top1", "eer", "speaker"),
    "Words": ("wer", "sentence"),
    "Faces": ("landmark", "ssim", "identity", "expression"),
    "Sex": ("sex",),
}
"""Tables of the page, by the beginnings of their columns; the last table has all others."""
_HARDEST = {"top1": ("top1_ignorant", "top1_lazy", "top1_semi"), "eer": ("eer_ignorant", "eer_lazy", "eer_semi")}
"""Columns of the leaderboard that are the strongest attacker of several: most top-1, least EER."""
BOARD: Mapping[str, tuple[str, str]] = {
    "uar": COLUMNS["uar"],
    "top1": ("top-1", "strongest attacker of any scenario, one clip"),
    "eer": ("EER", "strongest attacker of any scenario"),
    "top1_10": COLUMNS["top1_10"],
    "wer": COLUMNS["wer"],
    "expression_agreement": COLUMNS["expression_agreement"],
    "sex": COLUMNS["sex"],
    "epsilon_speaker": COLUMNS["epsilon_speaker"],
}
ORDERS: Mapping[str, tuple[str, int]] = {
    "re-identified least (top-1)": ("top1", 1),
    "re-identified least (EER)": ("eer", -1),
    "re-identified least from 10 clips": ("top1_10", 1),
    "most emotion": ("uar", -1),
    "fewest word errors": ("wer", 1),
    "same expression most often": ("expression_agreement", -1),
    "sex inferred least": ("sex", 1),
}
"""Column, and 1 where less comes first. The first is the page's own."""


def write_zoo(report: ZooReport, folder: Path) -> None:
    """Write all files, each whole or not at all. All are made in memory before the first is written."""
    files = {
        ZOO_CSV: as_csv(report.rows),
        ZOO_JSON: report.model_dump_json(indent=1) + "\n",
        ZOO_PAGE: render_zoo(report),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)


def board_figure(row: ZooRow, column: str) -> ZooFigure:
    """A figure of the leaderboard: a column's own, or that of the strongest attacker among the scenarios."""
    if column not in _HARDEST:
        return row.figures[column]
    known = [figure for name in _HARDEST[column] if (figure := row.figures[name]).value is not None]
    hardest = max if column == "top1" else min
    return hardest(known, key=lambda figure: figure.value or 0.0) if known else row.figures[_HARDEST[column][-1]]


def ordered(rows: Sequence[ZooRow], column: str, sign: int) -> list[ZooRow]:
    """Rows by a column of the leaderboard, then by emotion; those without the figure come later, failed ones last."""

    def place(row: ZooRow) -> tuple[bool, bool, float, float]:
        value, uar = board_figure(row, column).value, row.figures["uar"].value
        return bool(row.failed), value is None, sign * (value or 0.0), -(uar or 0.0)

    return sorted(rows, key=place)


def on_front(rows: Sequence[ZooRow]) -> list[ZooRow]:
    """The rows of which no other keeps more emotion and has less re-identification (top-1) at once."""
    points = [(r, r.figures["uar"].value, board_figure(r, "top1").value) for r in rows if not r.failed]
    known = [(row, uar, top1) for row, uar, top1 in points if uar is not None and top1 is not None]
    front = pareto_front([(uar, -top1) for _, uar, top1 in known])
    return [row for (row, *_), best in zip(known, front, strict=True) if best]


def render_zoo(report: ZooReport) -> str:
    """One HTML file that loads nothing."""
    columns = list(report.rows[0].figures if report.rows else COLUMNS)
    groups = {title: [n for n in columns if n.startswith(starts)] for title, starts in _GROUPS.items()}
    taken = {name for names in groups.values() for name in names}
    groups["Training data, inversion and cost"] = [name for name in columns if name not in taken]
    groups = {title: names for title, names in groups.items() if names}
    shown = {name: heading for name, heading in BOARD.items() if name in _HARDEST or name in columns}
    orders = {name: by for name, by in ORDERS.items() if by[0] in shown}
    systems: dict[str, list[ZooRow]] = {}
    for row in report.rows:
        systems.setdefault(row.system, []).append(row)
    board = [row for row in report.rows if row.half in ("", MEAN)]
    front = on_front(board)
    reasons = dict.fromkeys(figure.why for row in report.rows for figure in row.figures.values() if figure.why)
    return render_page(
        "zoo.html",
        kind="zoo",
        name=report.name,
        synthetic=report.synthetic,
        more_style=_choices(len(orders), len(systems)),
        z=report,
        orders={name: ordered(board, *by) for name, by in orders.items()},
        by={name: (column, "ascending" if sign > 0 else "descending") for name, (column, sign) in orders.items()},
        board=shown,
        board_figure=board_figure,
        front=[(row.system, row.setting) for row in front],
        numbers={system: number for number, system in enumerate(systems)},
        groups=groups,
        columns=COLUMNS,
        plain=PLAIN,
        systems=systems,
        reasons={why: number for number, why in enumerate(reasons, start=1)},
        figure_text=figure_text,
        failed=[row for row in report.rows if row.failed or row.faults],
    )


def _choices(orders: int, systems: int) -> str:
    """Rules by which the page's own buttons show one order, and hide what is not chosen."""
    rules = [f".o{n} {{ display: none; }}" for n in range(1, orders)]
    for n in range(1, orders):
        rules += [
            f"main:has(#o{n}:checked) .o{n} {{ display: block; }}",
            f"main:has(#o{n}:checked) .o0 {{ display: none; }}",
        ]
    rules += [f"main:has(#y{n}:not(:checked)) .y{n} {{ display: none; }}" for n in range(systems)]
    rules.append("main:has(#f:checked) .order tbody tr:not(.best) { display: none; }")
    return "\n".join(rules) + "\n"
