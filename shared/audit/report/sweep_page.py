"""The files of a sweep: JSON and CSV for scripts, the curves, and one page for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from moretta.shared.audit.report import plotting as p
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.charts import DASHED, LARGEST, draw_intervals, leak_axes
from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.plotting import Chart, ReferenceLine, styled
from moretta.shared.audit.report.sweep_rows import (
    SweepReport,
    SweepRow,
    as_csv,
    cell_text,
    drawn,
    epsilon_text,
    front,
    groups,
    step_label,
)
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.printable import printable, to_toml

_PANEL = (400.0, 320.0)  # about the size of a panel, in px
_ABOVE, _BELOW, _MARK = 10.0, -19.0, 9.0
"""Where a label stands from the middle of its mark, and the room of a mark, in px."""


def write_sweep(report: SweepReport, folder: Path) -> None:
    """Write all files, each whole or not at all. All are made in memory before the first is written."""
    chart = draw_curves(report.rows, title=report.name)
    chart.figure.suptitle(printable(report.name), x=0.01, ha="left", fontweight="bold")
    files: dict[str, str | bytes] = {
        "curves.png": chart.file("png", dpi=150),
        "curves.svg": chart.file("svg"),
        "sweep.csv": as_csv(report.rows),
        "sweep.json": report.model_dump_json(indent=1) + "\n",
        "sweep.html": render_sweep(report),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)


def render_sweep(report: SweepReport) -> str:
    """One HTML file that loads nothing."""
    parts = []
    for number, ((corpus, modality), rows) in enumerate(groups(report.rows).items()):
        label = f"{wording.modality_label(modality)}, {corpus}"
        chart = draw_curves(rows, title=f"Emotion recognition and re-identification: {label}")
        drawing = chart.inline(f"curves-{number}") if chart.tips else None
        curves = {name: [r for r in rows if r.curve == name] for name in dict.fromkeys(r.curve for r in rows)}
        parts.append({"label": label, "plot": drawing, "curves": curves, "chances": _chances(rows)})
    return render_page(
        "sweep.html",
        kind="sweep",
        name=report.name,
        synthetic=report.synthetic,
        s=report,
        findings=findings(report),
        parts=parts,
        epsilon_text=epsilon_text,
        cell_text=cell_text,
        format_count=wording.format_count,
        failed=[row for row in report.rows if row.failed],
        grid_toml=to_toml(report.grid),
        seeds=sorted({seed for row in report.rows for seed in row.seeds}),
    )


def findings(report: SweepReport) -> list[str]:
    """Summary of a sweep in sentences, unfavourable findings included."""
    sentences = []
    for (corpus, modality), rows in groups(report.rows).items():
        label = f"{wording.modality_label(modality)}, {corpus}"
        known = [row for row in rows if row.uar is not None]
        if not known:
            sentences.append(f"{label}: no cell has an emotion figure.")
            continue
        best = max(known, key=lambda row: row.uar or 0.0)
        trials = "nothing is known of how well people are then re-identified"
        if best.top1 is not None:
            trials = f"the strongest attacker then re-identifies the right person in {_figure(best, 'top1')} of trials"
        sentences.append(
            f"{label}: emotion is recognised best by {_named(best)}, with a UAR of {_figure(best, 'uar')} where "
            f"guessing gives {wording.percent(best.uar_chance)}; {trials}."
        )
        if hidden := [row for row in known if row.eer is not None and row.eer_chance is not None]:
            safest = max(hidden, key=lambda row: row.eer or 0.0)
            low, chance = safest.uar_low, safest.uar_chance
            above = low is not None and chance is not None and low > chance
            sentences.append(
                f"{label}: people are hidden best by {_named(safest)}, with an EER of {_figure(safest, 'eer')} where "
                f"50 % is no information; emotion is then recognised with a UAR of {_figure(safest, 'uar')}."
                f"{'' if above else ' That is not distinguishable from guessing the emotion.'}"
            )
    if failed := sum(bool(row.failed) for row in report.rows):
        rows_failed = wording.format_count(failed, "row")
        sentences.append(f"{rows_failed} failed: what figures are missing, and why, is below the table.")
    return sentences


def _named(row: SweepRow) -> str:
    return f"“{row.curve}”{f' at {cell_text(row)}' if row.settings else ''}"


def _figure(row: SweepRow, metric: str) -> str:
    value, low, high = row.figure(metric)
    return f"{wording.percent(value)} {wording.interval(low, high)}".strip()


def _chances(rows: Sequence[SweepRow]) -> str:
    """Against what the figures of one table are to be read."""
    row = next((r for r in rows if r.uar_chance is not None), None)
    if row is None:
        return ""
    known = (("emotion", row.uar_chance), ("top-1", row.top1_chance), ("EER", row.eer_chance))
    parts = [f"{name} {wording.percent(chance)}" for name, chance in known if chance is not None]
    people = wording.format_count(row.test_speakers, "tested speaker")
    return f"Guessing gives {', '.join(parts)}. {people}, {wording.format_count(row.test_clips, 'clip')}."


@styled()
def draw_curves(rows: Sequence[SweepRow], *, title: str) -> Chart:
    """A row of panels for each corpus and modality: emotion UAR across, the strongest attacker's top-1 and EER up.

    Good cells lie low and to the right. Those that nothing beats in both respects are filled and joined by a staircase;
    dashed lines are chance and the strongest attacker on unprotected recordings. The id of each mark names its cell.
    """
    parts = {where: part for where, part in groups(rows).items() if any(drawn(part, metric) for metric in LARGEST)}
    curves = list(dict.fromkeys(row.curve for part in parts.values() for row in part if row.uar is not None))
    chart = Chart(title, 1120, max(1, len(parts)) * 430 + 18 * math.ceil(len(curves) / 3) + 20)
    if not parts:
        chart.figure.text(0.5, 0.5, "no cell has both an emotion figure and a valid attack", ha="center")
        return chart
    styles = {c: (p.TONES[i % len(p.TONES)], p.MARKERS[i % len(p.MARKERS)]) for i, c in enumerate(curves)}
    panels = chart.figure.subplots(len(parts), len(LARGEST), squeeze=False)
    for axes_row, ((corpus, modality), part) in zip(panels, parts.items(), strict=True):
        for axes, metric in zip(axes_row, LARGEST, strict=True):
            where = printable(f": {wording.modality_label(modality)}, {corpus}")
            leak_axes(axes, metric, axis_range(part), across="emotion UAR of the federated model", where=where)
            _draw_panel(chart, axes, part, metric, styles)
    handles = [Line2D([], [], color=t, marker=mark, label=printable(name)) for name, (t, mark) in styles.items()]
    chart.figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return chart


def axis_range(rows: Sequence[SweepRow]) -> tuple[float, float]:
    """Whole tenths around everything that is drawn on the emotion axis, chance included."""
    known = [v for r in rows for v in (r.uar, r.uar_low, r.uar_high, r.uar_chance) if v is not None]
    low, high = math.floor(10 * min(known, default=0.0)) / 10, math.ceil(10 * max(known, default=1.0)) / 10
    return max(0.0, low), min(1.0, max(high, low + 0.2))


def levels(rows: Sequence[SweepRow], metric: str) -> list[tuple[float, str]]:
    """Values of the horizontal lines, with their names.

    Of attacks on unprotected recordings the strongest: where few clips were released, it had few to learn from.
    """
    chances = sorted({round(value, 3) for row in rows if (value := getattr(row, f"{metric}_chance")) is not None})
    unprotected = [value for row in rows if (value := getattr(row, f"{metric}_unprotected")) is not None]
    worst = [(min(unprotected) if metric == "eer" else max(unprotected), "unprotected")] if unprotected else []
    return worst + [(chance, f"chance {wording.percent(chance)}") for chance in chances]


def staircase(rows: Sequence[SweepRow], metric: str) -> list[tuple[float, float]]:
    """(UAR, value) of the front of what is drawn, from left to right."""
    known = drawn(rows, metric)
    return sorted({(row.uar or 0.0, getattr(row, metric)) for row in compress(known, front(known, metric))})


def _draw_panel(
    chart: Chart, axes: Axes, rows: Sequence[SweepRow], metric: str, styles: dict[str, tuple[str, str]]
) -> None:
    """`styles`: tone and marker of each curve."""
    for chance in {round(row.uar_chance, 3) for row in rows if row.uar_chance is not None}:
        axes.axvline(chance, **DASHED)
        axes.annotate(
            "guessing", (chance, 0), (4, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=p.SOFT, fontsize=p.SMALL,
        )  # fmt: skip
    p.draw_references(axes, [ReferenceLine(value, name) for value, name in levels(rows, metric)])
    corners = staircase(rows, metric)
    if len(corners) > 1:
        axes.step(*zip(*corners, strict=True), where="pre", color=p.FAINT, linewidth=6, alpha=0.3, zorder=1)
    for curve, (tone, shape) in styles.items():
        mine = drawn([row for row in rows if row.curve == curve], metric)
        across, up = [row.uar or 0.0 for row in mine], [_height(row, metric) for row in mine]
        axes.plot(across, up, color=tone, linewidth=1.4, alpha=0.7)
        for index, row in enumerate(mine):
            x, y, (value, low, high) = row.uar or 0.0, _height(row, metric), row.figure(metric)
            draw_intervals(axes, (x, row.uar_low, row.uar_high), (y, low, high), color=tone, alpha=0.35)
            face = tone if getattr(row, f"best_{metric}") else p.PAPER
            (mark,) = axes.plot([x], [y], shape, color=tone, markersize=8, mfc=face, clip_on=False, zorder=4)
            name = f"{curve}, {row.settings_text}" if row.settings_text else curve
            figures = f"{wording.metric_label(metric).label} {wording.percent(value)} by {getattr(row, f'{metric}_by')}"
            chart.tip(
                mark,
                f"{name}: emotion UAR {wording.percent(x)}, {figures}",
                key=f"point {metric} | {curve} | {step_label(row) or index}",
            )
    for row, above in placed_labels(rows, metric):
        axes.annotate(
            printable(step_label(row)), (row.uar or 0.0, _height(row, metric)), (0, _ABOVE if above else _BELOW),
            textcoords="offset points", ha="center", fontsize=p.SMALL, zorder=5, color=styles[row.curve][0],
        )  # fmt: skip


def placed_labels(rows: Sequence[SweepRow], metric: str) -> list[tuple[SweepRow, bool]]:
    """The labels that there is room for, and whether above their mark or below. The others show on hover."""
    low, high = axis_range(rows)
    shown = drawn(rows, metric)
    middles = [
        (((row.uar or 0.0) - low) / (high - low) * _PANEL[0], _height(row, metric) / LARGEST[metric] * _PANEL[1])
        for row in shown
    ]
    taken = [(x, y, _MARK, _MARK) for x, y in middles]  # boxes by centre and size
    found = []
    for row, (x, y) in zip(shown, middles, strict=True):
        for above in (True, False):
            up, width = (_ABOVE if above else _BELOW) * (-1 if metric == "eer" else 1), 6.2 * len(step_label(row))
            meets = any(
                abs(x - other_x) < (width + w) / 2 and abs(y + up - other_y) < (p.SMALL + h) / 2
                for other_x, other_y, w, h in taken
            )
            if step_label(row) and not meets:
                taken.append((x, y + up, width, p.SMALL))
                found.append((row, above))
                break
    return found


def _height(row: SweepRow, metric: str) -> float:
    """The value where the axis shows it."""
    return min(row.figure(metric)[0] or 0.0, LARGEST[metric])
