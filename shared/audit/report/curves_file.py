"""The curves of a sweep as files for papers and slides: PNG and SVG, drawn by matplotlib from what the page draws."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.curves import FULL, axis_range, levels, placed_labels, staircase
from moretta.shared.audit.report.headline import HEADLINE_METRICS
from moretta.shared.audit.report.sweep_rows import SweepRow
from moretta.shared.audit.report.sweep_view import Series, groups, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TONES = ("#24578f", "#a4501b", "#3c7a3f", "#6d4a93", "#a32a5b", "#5a6570")
"""As in the page's style sheet, on paper."""
_MARKS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^"}
_SOFT = "#5a6570"
_PANEL_INCHES = (6.2, 4.6)
_KEY_INCHES = 0.3


def draw_curves(rows: Sequence[SweepRow], *, title: str) -> dict[str, bytes]:
    """`png` and `svg`: one row of panels for each corpus and modality, top-1 left and EER right.

    Every point carries its curve and settings as the id of its SVG element, from which a drawing can be checked. Rows
    without figures are not drawn; with none at all the drawing says so.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "moretta", "svg.fonttype": "none", "font.size": 9.5, "font.family": "DejaVu Sans"}
    with rc_context(style):
        parts = groups(rows)
        lines = {line.name: line for part in parts.values() for m in HEADLINE_METRICS for line in series_of(part, m)}
        columns = 3
        key = _KEY_INCHES * -(-len(lines) // columns) + 0.1
        height = _PANEL_INCHES[1] * max(1, len(parts)) + key + 0.4
        figure = Figure(figsize=(2 * _PANEL_INCHES[0], height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
        if lines:
            axes = figure.subplots(len(parts), len(HEADLINE_METRICS), squeeze=False)
            for row, ((corpus, modality), part) in zip(axes, parts.items(), strict=True):
                for panel, metric in zip(row, HEADLINE_METRICS, strict=True):
                    _panel(panel, part, metric, f"{wording.modality_label(modality)}, {corpus}")
            figure.legend(
                handles=[_handle(line) for line in lines.values()],
                loc="outside lower left", ncols=columns, frameon=False,
            )  # fmt: skip
        else:
            figure.text(0.5, 0.5, "no cell has both an emotion figure and an attack that counts", ha="center")
        return {"png": _saved(figure, "png", dpi=150), "svg": _saved(figure, "svg", metadata={"Date": None})}


def _panel(axes: Axes, rows: Sequence[SweepRow], metric: str, where: str) -> None:
    label = wording.metric_label(metric).label
    drawn = series_of(rows, metric)
    span = axis_range(rows)
    axes.set_title(f"{label} of the strongest attacker: {where}", loc="left", fontsize=10)
    axes.set_xlabel("emotion UAR of the federated model", loc="right", color=_SOFT)
    axes.set_ylabel("more leakage →", loc="top", color=_SOFT)
    axes.set_xlim(*span)
    axes.set_ylim(*((FULL["eer"], 0.0) if metric == "eer" else (0.0, 1.0)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(color="#d9dee3", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    for chance in {round(row.uar_chance, 3) for row in rows if row.uar_chance is not None}:
        axes.axvline(chance, color=_SOFT, linewidth=1, linestyle=(0, (4, 4)))
    for value, words_ in levels(rows, metric):
        axes.axhline(value, color=_SOFT, linewidth=1, linestyle=(0, (4, 4)))
        axes.annotate(
            words_, (span[1], value), (-2, 3), textcoords="offset points", ha="right", color=_SOFT, fontsize=8
        )
    corners = staircase(drawn, metric)
    if len(corners) > 1:
        axes.step(*zip(*corners, strict=True), where="pre", color="#98a2ab", linewidth=5, alpha=0.35, zorder=1)
    for line in drawn:
        _line(axes, line, metric)
    for line, point, above in placed_labels(drawn, metric, span):
        axes.annotate(
            point.label, (point.uar, point.value), (0, 6 if above else -14), textcoords="offset points", ha="center",
            fontsize=8, zorder=5, color=TONES[line.tone],
        )  # fmt: skip


def _line(axes: Axes, line: Series, metric: str) -> None:
    tone: dict[str, Any] = {"color": TONES[line.tone]}
    axes.plot([p.uar for p in line.points], [p.value for p in line.points], linewidth=1.2, alpha=0.7, **tone)
    for number, point in enumerate(line.points):
        if point.uar_interval is not None:
            axes.hlines(point.value, *point.uar_interval, linewidth=1, alpha=0.35, **tone)
        if point.interval is not None:
            axes.vlines(point.uar, *point.interval, linewidth=1, alpha=0.35, **tone)
        face = TONES[line.tone] if point.best else "white"
        (mark,) = axes.plot(
            [point.uar],
            [point.value],
            _MARKS[line.shape],
            markersize=6.5,
            markerfacecolor=face,
            zorder=4,
            clip_on=False,
            **tone,
        )
        mark.set_gid(f"point {metric} | {line.name} | {point.label or number}")


def _handle(line: Series) -> Any:
    from matplotlib.lines import Line2D

    tone = TONES[line.tone]
    return Line2D([], [], color=tone, marker=_MARKS[line.shape], linewidth=1.2, label=line.name)


def _saved(figure: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()
