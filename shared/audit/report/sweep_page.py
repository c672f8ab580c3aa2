"""The files of a sweep: JSON and CSV for scripts, the curves, and one page for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.charts import LARGEST, draw_intervals, leak_axes
from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.plotting import (
    FAINT,
    MARKERS,
    PAPER,
    SMALL,
    SOFT,
    TONES,
    Chart,
    Level,
    draw_levels,
    styled,
)
from moretta.shared.audit.report.sweep_rows import (
    SweepReport,
    SweepRow,
    as_csv,
    cell_text,
    epsilon_text,
    groups,
    pareto_front,
    step_label,
)
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.printable import printable, to_toml

SWEEP_JSON, SWEEP_CSV, SWEEP_HTML = "sweep.json", "sweep.csv", "sweep.html"
CURVES = "curves"
_PANEL = (400.0, 320.0)
"""About the size of a panel, in px."""
_ABOVE, _BELOW, _MARK = 10.0, -19.0, 9.0
"""Where a label stands from the middle of its mark, and the room of a mark, in px."""


def write_sweep(report: SweepReport, folder: Path) -> None:
    """Write all files, each whole or not at all. All are made in memory before the first is written."""
    chart = draw_curves(report.rows, title=report.name)
    chart.figure.suptitle(printable(report.name), x=0.01, ha="left", fontweight="bold")
    files: dict[str, str | bytes] = {
        f"{CURVES}.png": chart.file("png", dpi=150),
        f"{CURVES}.svg": chart.file("svg"),
        SWEEP_CSV: as_csv(report.rows),
        SWEEP_JSON: report.model_dump_json(indent=1) + "\n",
        SWEEP_HTML: render_sweep(report),
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
    """What a reader should take away, worst news included."""
    sentences = []
    for (corpus, modality), rows in groups(report.rows).items():
        label = f"{wording.modality_label(modality)}, {corpus}"
        known = [row for row in rows if row.uar is not None]
        if not known:
            sentences.append(f"{label}: no cell has an emotion figure.")
            continue
        best = max(known, key=lambda row: row.uar or 0.0)
        sentences.append(
            f"{label}: emotion is recognised best by {_named(best)}, with a UAR of "
            f"{_summary(best.uar, best.uar_low, best.uar_high)} where guessing gives {wording.percent(best.uar_chance)}"
            f"{_of_trials(best)}."
        )
        hidden = [row for row in known if row.eer is not None and row.eer_chance is not None]
        safest = max(hidden, key=lambda row: row.eer or 0.0, default=None)
        if safest is not None:
            verdict = "" if _above_chance(safest) else " That is not distinguishable from guessing the emotion."
            sentences.append(
                f"{label}: people are hidden best by {_named(safest)}, with an EER of "
                f"{_summary(safest.eer, safest.eer_low, safest.eer_high)} where 50 % is no information; emotion is "
                f"then "
                f"recognised with a UAR of {_summary(safest.uar, safest.uar_low, safest.uar_high)}.{verdict}"
            )
    if failed := [row for row in report.rows if row.failed]:
        sentences.append(
            f"{wording.format_count(len(failed), 'row')} failed: what figures are missing, and why, is below the table."
        )
    return sentences


def _of_trials(row: SweepRow) -> str:
    if row.top1 is None:
        return "; nothing is known of how well people are then re-identified"
    shown = _summary(row.top1, row.top1_low, row.top1_high)
    return f"; the strongest attacker then names the right person in {shown} of trials"


def _above_chance(row: SweepRow) -> bool:
    return row.uar_low is not None and row.uar_chance is not None and row.uar_low > row.uar_chance


def _named(row: SweepRow) -> str:
    return f"“{row.curve}”{f' at {cell_text(row)}' if row.settings else ''}"


def _summary(value: float | None, low: float | None, high: float | None) -> str:
    return f"{wording.percent(value)} {wording.interval(low, high)}".strip()


def _chances(rows: Sequence[SweepRow]) -> str:
    """Against what the figures of one table are to be read."""
    row = next((r for r in rows if r.uar_chance is not None), None)
    if row is None:
        return ""
    parts = [f"emotion {wording.percent(row.uar_chance)}"]
    parts += [f"top-1 {wording.percent(row.top1_chance)}"] if row.top1_chance is not None else []
    parts += [f"EER {wording.percent(row.eer_chance)}"] if row.eer_chance is not None else []
    people, clips = (
        wording.format_count(row.test_speakers, "tested speaker"),
        wording.format_count(row.test_clips, "clip"),
    )
    return f"Guessing gives {', '.join(parts)}. {people}, {clips}."


def drawn(rows: Sequence[SweepRow], metric: str) -> list[SweepRow]:
    """Rows that have both figures of a panel; the others are in the table only."""
    return [row for row in rows if row.uar is not None and row.figure(metric)[0] is not None]


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
    panels = chart.figure.subplots(len(parts), len(LARGEST), squeeze=False)
    for axes_row, ((corpus, modality), part) in zip(panels, parts.items(), strict=True):
        for axes, metric in zip(axes_row, LARGEST, strict=True):
            where = printable(f": {wording.modality_label(modality)}, {corpus}")
            leak_axes(axes, metric, axis_range(part), across="emotion UAR of the federated model", where=where)
            _draw_panel(chart, axes, part, metric, curves)
    styles = [(name, TONES[i % len(TONES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(curves)]
    handles = [Line2D([], [], color=tone, marker=mark, label=printable(name)) for name, tone, mark in styles]
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
    chances = {round(value, 3) for row in rows if (value := getattr(row, f"{metric}_chance")) is not None}
    found = [(chance, f"chance {wording.percent(chance)}") for chance in sorted(chances)]
    unprotected = [value for row in rows if (value := getattr(row, f"{metric}_unprotected")) is not None]
    worst = min if metric == "eer" else max
    return [(worst(unprotected), "unprotected"), *found] if unprotected else found


def staircase(rows: Sequence[SweepRow], metric: str) -> list[tuple[float, float]]:
    """(UAR, value) of the front of what is drawn, from left to right."""
    sign = 1 if metric == "eer" else -1
    points = [(row.uar or 0.0, row.figure(metric)[0] or 0.0) for row in drawn(rows, metric)]
    front = pareto_front([(uar, sign * value) for uar, value in points])
    return sorted({point for point, best in zip(points, front, strict=True) if best})


def _draw_panel(chart: Chart, axes: Axes, rows: Sequence[SweepRow], metric: str, curves: Sequence[str]) -> None:
    for chance in {round(row.uar_chance, 3) for row in rows if row.uar_chance is not None}:
        axes.axvline(chance, color=SOFT, linewidth=1.3, linestyle=(0, (4, 4)))
        axes.annotate(
            "guessing", (chance, 0), (4, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=SOFT, fontsize=SMALL,
        )  # fmt: skip
    draw_levels(axes, [Level(value, name) for value, name in levels(rows, metric)])
    corners = staircase(rows, metric)
    if len(corners) > 1:
        axes.step(*zip(*corners, strict=True), where="pre", color=FAINT, linewidth=6, alpha=0.3, zorder=1)
    for number, curve in enumerate(curves):
        tone, shape = TONES[number % len(TONES)], MARKERS[number % len(MARKERS)]
        mine = drawn([row for row in rows if row.curve == curve], metric)
        places = [(row.uar or 0.0, _height(row, metric)) for row in mine]
        axes.plot([x for x, _ in places], [y for _, y in places], color=tone, linewidth=1.4, alpha=0.7)
        for index, (row, (x, y)) in enumerate(zip(mine, places, strict=True)):
            value, low, high = row.figure(metric)
            draw_intervals(axes, (x, row.uar_low, row.uar_high), (y, low, high), color=tone, alpha=0.35)
            face = tone if getattr(row, f"best_{metric}") else PAPER
            (mark,) = axes.plot([x], [y], shape, color=tone, markersize=8, mfc=face, clip_on=False, zorder=4)
            name = f"{curve}, {row.settings_text}" if row.settings_text else curve
            figures = (
                f"emotion UAR {wording.percent(row.uar)}, {wording.metric_label(metric).label} {wording.percent(value)}"
            )
            chart.tip(
                mark,
                f"{name}: {figures} by {getattr(row, f'{metric}_by')}",
                key=f"point {metric} | {curve} | {step_label(row) or index}",
            )
    for row, above in placed_labels(rows, metric):
        axes.annotate(
            printable(step_label(row)), (row.uar or 0.0, _height(row, metric)), (0, _ABOVE if above else _BELOW),
            textcoords="offset points", ha="center", fontsize=SMALL, zorder=5,
            color=TONES[curves.index(row.curve) % len(TONES)],
        )  # fmt: skip


def placed_labels(rows: Sequence[SweepRow], metric: str) -> list[tuple[SweepRow, bool]]:
    """The labels that there is room for, and whether above their mark or below. The others show on hover."""
    low, high = axis_range(rows)
    shown = drawn(rows, metric)

    def at(row: SweepRow) -> tuple[float, float]:
        return ((row.uar or 0.0) - low) / (high - low) * _PANEL[0], _height(row, metric) / LARGEST[metric] * _PANEL[1]

    taken = [(*at(row), _MARK, _MARK) for row in shown]
    found = []
    for row in shown:
        x, y = at(row)
        for above in (True, False):
            up = (_ABOVE if above else _BELOW) * (-1 if metric == "eer" else 1)
            place = (x, y + up, 6.2 * len(step_label(row)), float(SMALL))
            if step_label(row) and not any(_meet(place, other) for other in taken):
                taken.append(place)
                found.append((row, above))
                break
    return found


def _height(row: SweepRow, metric: str) -> float:
    """The value where the axis shows it."""
    return min(row.figure(metric)[0] or 0.0, LARGEST[metric])


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes, by centre and size, overlap."""
    return abs(one[0] - other[0]) < (one[2] + other[2]) / 2 and abs(one[1] - other[1]) < (one[3] + other[3]) / 2
