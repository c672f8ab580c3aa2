"""The charts of a study's report: confusion matrices, privacy loss over rounds, all attackers, and the trade-off."""

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
    chart = Chart("Privacy loss over rounds", 880, 300)
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
    chart.figure.legend(loc="outside right upper")
    return chart


@styled()
def attacker_forest(results: Sequence[Result], *, title: str) -> Chart | None:
    """Each attacker of one modality with its interval, by scenario; one panel for each headline metric that occurs.

    Invalid attackers are hollow and grey, the strongest is emphasized, the dashed line is chance. None without any.
    """
    shown = [r for r in results if r.metric in LARGEST and r.subset == "all" and r.pooled == 1 and r.value is not None]
    metrics = [metric for metric in LARGEST if any(r.metric == metric for r in shown)]
    if not metrics:
        return None
    places: dict[tuple[str, str], int] = {}
    for scenario in sorted({r.scenario for r in shown}, key=wording.scenario_order):
        for attacker in dict.fromkeys(["", *(r.attacker for r in shown if r.scenario == scenario)]):
            places[scenario, attacker] = len(places)
    counted = {(r.scenario, r.attacker) for r in shown if not r.invalid}
    chart = Chart(title, 1050 if len(metrics) == 2 else 640, 95 + 21 * len(places))
    panels = chart.figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    panels[0].set_ylim(len(places) - 0.5, -0.5)
    labels = [
        printable(f"   {line[1]}{'' if line in counted else ' (invalid)'}" if line[1] else line[0]) for line in places
    ]
    panels[0].set_yticks(range(len(places)), labels, ha="left")
    for label, (_, attacker) in zip(panels[0].get_yticklabels(), places, strict=True):
        label.set(fontweight="normal" if attacker else "bold", color=p.INK)
    panels[0].tick_params(axis="y", pad=190, length=0)
    for axes, metric in zip(panels, metrics, strict=True):
        mine = [r for r in shown if r.metric == metric]
        _forest_frame(axes, metric, mine)
        best = strongest([r for r in mine if not r.invalid and not r.is_anchor], metric)
        for r in mine:
            _forest_mark(chart, axes, r, places[r.scenario, r.attacker], emphasized=r is best)
    return chart


def _forest_frame(axes: Axes, metric: str, results: Sequence[Result]) -> None:
    title, label = {
        "top1": ("Top-1: right speaker re-identified", "more leakage →"),
        "eer": ("EER: errors in verification", "← more leakage"),
    }[metric]
    axes.set_title(title, pad=22)
    axes.set_xlabel(label, loc="right")
    axes.set_xlim(-0.01, LARGEST[metric])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    p.percent_axis(axes.xaxis, 0, LARGEST[metric], _STEPS[metric])
    for chance in sorted({r.chance for r in results if r.chance is not None}):
        axes.axvline(chance, zorder=1.5, **DASHED)
        axes.annotate(
            f"chance {wording.percent(chance)}", (chance, 1), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", color=p.SOFT, fontsize=p.SMALL,
        )  # fmt: skip


def _forest_mark(chart: Chart, axes: Axes, r: Result, place: int, *, emphasized: bool) -> None:
    pretrained, largest = r.kind == "pretrained", LARGEST[r.metric]
    tone = p.FAINT if r.invalid else p.ALARM if emphasized else p.TONES[1 if pretrained else 0]
    if r.low is not None and r.high is not None:
        ends, dashes = (min(r.low, largest), min(r.high, largest)), ":" if r.invalid else "-"
        axes.hlines(place, *ends, color=tone, linewidth=2.6 if emphasized else 1.6, linestyle=dashes)
    (mark,) = axes.plot(
        [min(r.value or 0.0, largest)], [place], "D" if pretrained else "o", markersize=8, clip_on=False, zorder=3,
        markerfacecolor=p.PAPER if r.invalid else tone, markeredgecolor=tone if r.invalid else p.PAPER,
    )  # fmt: skip
    figure = f"{wording.figure(r.value, r.metric)} {wording.interval(r.low, r.high, r.metric)}"
    label, invalid = wording.metric_label(r.metric).label, " (invalid)" if r.invalid else ""
    chart.tip(mark, f"{r.attacker}, {r.scenario}: {label} {figure}{invalid}")


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
def tradeoff(emotion: EmotionResults, results: Sequence[Result]) -> Chart | None:
    """Emotion UAR across, the strongest attacker of each scenario up; one panel for each headline metric.

    Good releases lie low and to the right. None if no modality has both an emotion result and a valid attack.
    """
    tables: dict[str, EmotionTable] = {m: table for m, table in emotion.by_modality().items() if table is not None}
    attacked = [r for r in results if r.is_whole and r.modality in tables]
    metrics = [m for m in LARGEST if any(r.metric == m and not r.is_anchor for r in attacked)]
    if not metrics:
        return None
    title = "Trade-off between emotion recognition and re-identification"
    chart = Chart(title, 1040 if len(metrics) == 2 else 540, 430)
    for axes, metric in zip(chart.figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        leak_axes(axes, metric, (0.0, 1.0), across="emotion UAR")
        _tradeoff_panel(chart, axes, tables, [r for r in attacked if r.metric == metric], metric)
    marks = [(m, "o", _tone(m)) for m in tables if any(r.modality == m for r in attacked)]
    marks += [(s, mark, p.SOFT) for s, mark in _SCENARIO_MARKS.items() if any(r.scenario == s for r in attacked)]
    handles = [Line2D([], [], linestyle="", marker=mark, color=tone, label=name) for name, mark, tone in marks]
    chart.figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
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
