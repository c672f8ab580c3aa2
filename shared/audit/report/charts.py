"""The charts of a study's report: the trade-off, people by risk, confusion matrices, and what rounds do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from moretta.shared.audit.report import plotting as p
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.plotting import Chart, ReferenceLine, styled
from moretta.shared.audit.report.report_schema import EmotionResults, EmotionTable, PrivacyRow
from moretta.shared.audit.report.summary import UNPROTECTED, strongest
from moretta.shared.audit.result import Result
from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bounds = tuple[float, float | None, float | None]  # value, low and high
LARGEST = {"top1": 1.0, "eer": 0.6}  # where the axis of each headline metric ends
_STEPS = {"top1": 0.2, "eer": 0.1}
WIDTH = 420.0  # px of a chart: on a telephone its labels still have five sixths of their size
_CELL = 41.0  # side of a confusion cell, in px
_SCENARIO_MARKS = {"ignorant": "o", "lazy-informed": "^", "semi-informed": "s"}
DASHED: dict[str, Any] = {"color": p.SOFT, "linewidth": 1.3, "linestyle": (0, (4, 4))}


def _tone(modality: str) -> str:
    return {"voice": p.TONES[0], "face": p.TONES[1]}.get(modality, p.TONES[2])


@styled()
def confusion_matrix(table: EmotionTable, *, title: str) -> Chart:
    """Rows are the true emotion, columns the predicted one; shade and figure are percent of the row."""
    size = len(table.classes)
    chart = Chart(title, 64 + size * _CELL, 58 + size * _CELL)
    axes = chart.figure.subplots()
    axes.set(xlim=(0, size), ylim=(size, 0), xlabel="predicted", ylabel="true", aspect="equal")
    axes.xaxis.set(label_position="top", ticks_position="top")
    middles, names = [index + 0.5 for index in range(size)], [printable(name) for name in table.classes]
    axes.set_xticks(middles, names)
    axes.set_yticks(middles, names)
    axes.tick_params(length=0)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 8
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for row, (label, counts, score) in enumerate(zip(table.classes, table.confusion, table.per_class, strict=True)):
        total = sum(counts)
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            shade: dict[str, Any] = {"facecolor": p.HEAT, "alpha": 0.04 + 0.66 * share}
            empty: dict[str, Any] = {"facecolor": "none", "edgecolor": p.LINE, "linestyle": ":"}
            cell = Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, **shade if total else empty)
            axes.add_patch(cell)
            figure, weight = f"{100 * share:.0f}" if total else "–", "bold" if row == column else "normal"
            axes.text(column + 0.5, row + 0.5, figure, ha="center", va="center", fontweight=weight)
            if row == column:
                clips = wording.format_count(score.clips, "clip")
                chart.tip(cell, f"{label} is recognised in {wording.percent(score.recall)} of {clips}")
    return chart


@styled()
def epsilon_over_rounds(rows: Sequence[PrivacyRow], *, limit: float | None = None) -> Chart | None:
    """Guaranteed epsilon after each round: the highest of the sites as a line, all sites as a band; None without any.

    Rows without a round or without a finite epsilon are left out. `limit` is the gate's `max_epsilon`.
    """
    series: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.round is not None and row.epsilon is not None:
            series[row.mechanism, row.unit][row.round].append(row.epsilon)
    if not series:
        return None
    chart = Chart("Privacy loss over rounds", WIDTH, 260)
    axes = chart.figure.subplots()
    for index, ((mechanism, unit), rounds) in enumerate(sorted(series.items())):
        tone, numbers = p.TONES[index % len(p.TONES)], sorted(rounds)
        highest = [max(rounds[number]) for number in numbers]
        axes.fill_between(numbers, [min(rounds[n]) for n in numbers], highest, color=tone, alpha=0.16, linewidth=0)
        name = printable(f"{mechanism}, per {unit}")
        (line,) = axes.plot(numbers, highest, marker="o", markersize=4, linewidth=2, color=tone, label=name)
        first, last = (f"{wording.epsilon(highest[i])} after round {numbers[i]}" for i in (0, -1))
        chart.tip(line, f"{name}: {first}, {last}")
    if limit is not None:
        axes.axhline(limit, color=p.ALARM, linewidth=1.4, linestyle=(0, (7, 4)), label=f"gate: {limit:.3g}")
    axes.set(xlabel="round", ylabel="epsilon spent (guaranteed)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    chart.figure.legend(loc="outside lower left")
    return chart


def leak_axes(axes: Axes, metric: str, span: tuple[float, float], *, across: str, where: str = "") -> None:
    """Emotion UAR across, the strongest attacker up: up is more leakage, so the axis of EER runs downwards."""
    largest = LARGEST[metric]
    axes.set_title(f"{wording.metric_label(metric).label} of the strongest attacker{where}")
    axes.set_xlabel(f"{across} →", loc="right")
    axes.set_ylabel("more leakage →", loc="top")
    axes.set_xlim(*span)
    axes.set_ylim(*((largest, 0.0) if metric == "eer" else (0.0, largest)))
    p.percent_axis(axes.yaxis, 0.0, largest, _STEPS[metric])
    p.percent_axis(axes.xaxis, *span, 0.2 if span == (0.0, 1.0) else 0.1)


def draw_intervals(axes: Axes, x: Bounds, y: Bounds, **style: Any) -> None:
    """Lines across and up through a point, where its interval is known."""
    if x[1] is not None and x[2] is not None:
        axes.hlines(y[0], x[1], x[2], **style)
    if y[1] is not None and y[2] is not None:
        axes.vlines(x[0], *sorted(min(end, max(axes.get_ylim())) for end in y[1:] if end is not None), **style)


@styled()
def tradeoff(emotion: EmotionResults, results: Sequence[Result], metric: str) -> Chart | None:
    """Emotion UAR across, the strongest attacker of each scenario by one headline metric up.

    Good releases lie low and to the right. None if no modality has both an emotion result and a valid attack.
    """
    tables: dict[str, EmotionTable] = {m: table for m, table in emotion.by_modality().items() if table is not None}
    attacked = [r for r in results if r.is_whole and r.modality in tables and r.metric == metric]
    if not any(not r.is_anchor for r in attacked):
        return None
    chart = Chart("Trade-off between emotion recognition and re-identification", WIDTH, 370)
    axes = chart.figure.subplots()
    leak_axes(axes, metric, (0.0, 1.0), across="emotion UAR")
    _tradeoff_panel(chart, axes, tables, attacked, metric)
    marks = [(m, "o", _tone(m)) for m in tables if any(r.modality == m for r in attacked)]
    marks += [(s, mark, p.SOFT) for s, mark in _SCENARIO_MARKS.items() if any(r.scenario == s for r in attacked)]
    handles = [Line2D([], [], linestyle="", marker=mark, color=tone, label=name) for name, mark, tone in marks]
    chart.figure.legend(handles=handles, loc="outside lower left", ncols=3, columnspacing=1, handletextpad=0)
    return chart


def _tradeoff_panel(
    chart: Chart, axes: Axes, tables: dict[str, EmotionTable], results: Sequence[Result], metric: str
) -> None:
    chances = sorted({r.chance for r in results if r.chance is not None})
    lines = [ReferenceLine(chance, f"chance {wording.percent(chance)}") for chance in chances]
    for chance in {tables[r.modality].chance for r in results}:
        axes.axvline(chance, **DASHED)
    for modality, table in tables.items():
        tone, mine = _tone(modality), [r for r in results if r.modality == modality]
        anchor = strongest([r for r in mine if r.scenario == UNPROTECTED], metric)
        if anchor is not None and anchor.value is not None:
            lines.append(ReferenceLine(anchor.value, f"{modality} unprotected", tone, (10, 5)))
        released = [r for r in mine if not r.is_anchor]
        best = strongest(released, metric)
        if best is not None and best.value is not None:
            lines.append(ReferenceLine(best.value, f"{modality} {wording.percent(best.value)}", tone, ()))
        for scenario in sorted({r.scenario for r in released}, key=wording.scenario_order):
            r = strongest([r for r in released if r.scenario == scenario], metric)
            if r is None or r.value is None:
                continue
            draw_intervals(axes, (table.uar, table.uar_low, table.uar_high), (r.value, r.low, r.high), color=tone)
            (mark,) = axes.plot(
                [table.uar], [min(r.value, LARGEST[metric])], _SCENARIO_MARKS.get(scenario, "D"), color=tone,
                markersize=9, markeredgecolor=p.PAPER, clip_on=False, zorder=3,
            )  # fmt: skip
            figure = f"{wording.metric_label(metric).label} {wording.figure(r.value, metric)}"
            uar = wording.percent(table.uar)
            chart.tip(mark, f"{modality}, {scenario}, {r.attacker}: emotion UAR {uar}, {figure}")
    p.draw_references(axes, lines)


@styled()
def people(shares: Sequence[float], *, chance: float | None, title: str) -> Chart | None:
    """How often each person is re-identified, worst-off first; None without two people."""
    if len(shares) < 2:
        return None
    chart = Chart(title, WIDTH, 190)
    axes = chart.figure.subplots()
    bars = axes.bar(range(1, len(shares) + 1), shares, color=p.TONES[0], width=0.8)
    chart.tip(bars[0], f"worst-off person: {wording.percent(shares[0])}")
    if chance is not None:
        axes.axhline(chance, **DASHED, label=f"chance {wording.percent(chance)}")
        chart.figure.legend(loc="outside upper right")
    axes.set(xlabel="people, worst-off first", ylabel="top-1", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    p.percent_axis(axes.yaxis, 0.0, 1.0, 0.25)
    return chart


@styled()
def reliability(emotion: EmotionResults) -> Chart | None:
    """How often each model is right where it is so sure; on the dashed line both agree. None without probabilities."""
    results = {name: r for name, r in emotion.by_modality().items() if r is not None and r.reliability}
    if not results:
        return None
    chart = Chart("Calibration of the emotion models", WIDTH, 320)
    axes = chart.figure.subplots()
    axes.plot([0, 1], [0, 1], **DASHED)
    for index, (name, result) in enumerate(results.items()):
        sure, right = zip(*((b.confidence, b.right / b.clips) for b in result.reliability), strict=True)
        label = wording.modality_label(name)
        (line,) = axes.plot(sure, right, color=_tone(name), marker=p.MARKERS[index % 4], markersize=5, label=label)
        chart.tip(line, f"{label}: calibration error {wording.percent(result.ece)}")
    axes.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="how sure the model is", ylabel="how often it is right", title="Calibration"
    )
    p.percent_axis(axes.xaxis, 0.0, 1.0, 0.2)
    p.percent_axis(axes.yaxis, 0.0, 1.0, 0.2)
    chart.figure.legend(loc="outside lower left", ncols=2)
    return chart
