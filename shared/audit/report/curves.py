"""The curves of a sweep as inline SVG: emotion UAR across, what the strongest attacker reaches up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moretta.shared.audit.report import svg, wording
from moretta.shared.audit.report.headline import HEADLINE_METRICS
from moretta.shared.audit.report.pareto import pareto_front
from moretta.shared.audit.report.sweep_rows import SweepRow
from moretta.shared.audit.report.sweep_view import Point, Series, series_of

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LABELS, GAP = 400.0, 320.0, 52.0, 44.0, 52.0, 118.0, 12.0
ABOVE, BELOW = -10.0, 19.0
"""Baseline of a label from the middle of its mark, in px."""
MARK, LABEL = 9.0, 11.0
"""Room that a mark and a line of a label take, in px."""
KEY = 24.0
"""Height of one line of the key."""
FULL = {"top1": 1.0, "eer": 0.6}
STEP = {"top1": 0.2, "eer": 0.1}


def curve_plot(rows: Sequence[SweepRow], *, name: str, title: str) -> str | None:
    """One panel for top-1, one for EER, of the rows of one corpus and modality.

    Up is more leakage in both: the EER axis runs downwards. Good cells lie low and to the right; those that nothing
    beats in both respects are filled and joined by a staircase. Dashed lines are chance and the strongest attacker on
    unprotected recordings.

    Returns:
        The drawing, or None if no row has both figures.
    """
    drawn = {metric: series_of(rows, metric) for metric in HEADLINE_METRICS}
    metrics = [metric for metric, lines in drawn.items() if lines]
    if not metrics:
        return None
    span = axis_range(rows)
    pitch = LEFT + WIDTH + LABELS + GAP
    body: list[str] = []
    for index, metric in enumerate(metrics):
        body.extend(_CurvePanel(metric, LEFT + index * pitch, span).marks(drawn[metric], rows))
    width = len(metrics) * pitch - GAP
    lines = {line.name: line for metric in metrics for line in drawn[metric]}
    key, height = _key(list(lines.values()), width)
    description = "; ".join(point.tip for metric in metrics for line in drawn[metric] for point in line.points)
    return svg.figure(
        width, TOP + HEIGHT + BOTTOM + height, [*body, *key], name=name, title=title, description=description
    )


def axis_range(rows: Sequence[SweepRow]) -> tuple[float, float]:
    """Whole tenths around everything that is drawn on the emotion axis, chance included."""
    known = [v for r in rows for v in (r.uar, r.uar_low, r.uar_high, r.uar_chance) if v is not None]
    low, high = math.floor(10 * min(known, default=0.0)) / 10, math.ceil(10 * max(known, default=1.0)) / 10
    return max(0.0, low), min(1.0, max(high, low + 0.2))


def leak(value: float, metric: str) -> float:
    """0 at no leakage that the axis shows, 1 at most."""
    share = 1 - value / FULL["eer"] if metric == "eer" else value
    return min(max(share, 0.0), 1.0)


def staircase(lines: Sequence[Series], metric: str) -> list[tuple[float, float]]:
    """(UAR, value) of the front of what is drawn, from left to right."""
    points = [point for line in lines for point in line.points]
    front = pareto_front([(point.uar, -leak(point.value, metric)) for point in points])
    return sorted({(p.uar, p.value) for p, best in zip(points, front, strict=True) if best})


def levels(rows: Sequence[SweepRow], metric: str) -> list[tuple[float, str]]:
    """Values of the horizontal lines, with their words.

    Of attacks on unprotected recordings the strongest: where few clips were released, it had few to learn from.
    """
    chances = {round(value, 3) for row in rows if (value := getattr(row, f"{metric}_chance")) is not None}
    found = [(chance, f"chance {wording.percent(chance)}") for chance in sorted(chances)]
    unprotected = [value for row in rows if (value := getattr(row, f"{metric}_unprotected")) is not None]
    return found if not unprotected else [(HEADLINE_METRICS[metric](unprotected), "unprotected"), *found]


def placed_labels(lines: Sequence[Series], metric: str, span: tuple[float, float]) -> list[tuple[Series, Point, bool]]:
    """The labels there is room for, and whether above their point or below. The others' points tell it on hover."""
    low, high = span

    def at(point: Point) -> tuple[float, float]:
        return (point.uar - low) / (high - low) * WIDTH, (1 - leak(point.value, metric)) * HEIGHT

    taken = [(*at(point), MARK, MARK) for line in lines for point in line.points]
    found = []
    for line in lines:
        for point in line.points:
            x, y = at(point)
            width = 6.2 * len(point.label)
            for above in (True, False):
                place = (x, y + (ABOVE if above else BELOW) - 4, width, LABEL)
                if point.label and not any(_meet(place, other) for other in taken):
                    taken.append(place)
                    found.append((line, point, above))
                    break
    return found


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes, by centre and size, overlap."""
    return abs(one[0] - other[0]) < (one[2] + other[2]) / 2 and abs(one[1] - other[1]) < (one[3] + other[3]) / 2


class _CurvePanel:
    """One metric's plot, with its left edge at `left`."""

    def __init__(self, metric: str, left: float, span: tuple[float, float]) -> None:
        self.metric, self.left, self.span = metric, left, span

    def x(self, uar: float) -> float:
        low, high = self.span
        return self.left + (uar - low) / (high - low) * WIDTH

    def y(self, value: float) -> float:
        return TOP + (1 - leak(value, self.metric)) * HEIGHT

    def marks(self, lines: Sequence[Series], rows: Sequence[SweepRow]) -> list[str]:
        marks = [*self._frame(), *self._levels(rows)]
        marks.extend(self._staircase(lines))
        for line in lines:
            marks.extend(self._whiskers(line))
        for line in lines:
            tone = f"tone-{line.tone}"
            places = [(self.x(point.uar), self.y(point.value)) for point in line.points]
            marks.append(svg.polyline(places, class_=f"along {tone}"))
            for (x, y), point in zip(places, line.points, strict=True):
                kind = "mark" if point.best else "mark behind"
                marks.append(svg.marker(x, y, shape=line.shape, class_=f"{kind} {tone}", tip=point.tip))
        marks.extend(self._labels(lines))
        return marks

    def _frame(self) -> list[str]:
        label = wording.metric_label(self.metric).label
        marks = [
            svg.text(self.left, 14, f"{label} of the strongest attacker", class_="axis"),
            svg.text(self.left, 31, "↑ more leakage", class_="hint"),
            svg.text(
                self.left + WIDTH,
                TOP + HEIGHT + 38,
                "emotion UAR of the federated model →",
                class_="axis",
                anchor="end",
            ),
        ]
        full, step = FULL[self.metric], STEP[self.metric]
        for number in range(round(full / step) + 1):
            y = self.y(number * step)
            marks.append(svg.line(self.left, y, self.left + WIDTH, y, class_="grid"))
            marks.append(svg.text(self.left - 8, y + 4, f"{100 * number * step:.0f} %", class_="tick", anchor="end"))
        low, high = self.span
        for number in range(round(10 * (high - low)) + 1):
            x = self.x(low + number / 10)
            marks.append(svg.line(x, TOP, x, TOP + HEIGHT, class_="grid"))
            marks.append(
                svg.text(x, TOP + HEIGHT + 18, f"{100 * (low + number / 10):.0f} %", class_="tick", anchor="middle")
            )
        return marks

    def _levels(self, rows: Sequence[SweepRow]) -> list[str]:
        marks = []
        for chance in sorted({round(row.uar_chance, 3) for row in rows if row.uar_chance is not None}):
            marks.append(svg.line(self.x(chance), TOP, self.x(chance), TOP + HEIGHT, class_="chance"))
            marks.append(svg.text(self.x(chance) + 4, TOP + HEIGHT - 6, "guessing", class_="hint"))
        found = levels(rows, self.metric)
        places = svg.spread([self.y(value) for value, _ in found], gap=15, low=TOP, high=TOP + HEIGHT)
        for (value, label), place in zip(found, places, strict=True):
            marks.append(svg.line(self.left, self.y(value), self.left + WIDTH, self.y(value), class_="chance"))
            marks.append(svg.text(self.left + WIDTH + 8, place + 4, label, class_="hint"))
        return marks

    def _staircase(self, lines: Sequence[Series]) -> list[str]:
        """What can be had at all: at least so much emotion at no more leakage."""
        corners: list[tuple[float, float]] = []
        for uar, value in staircase(lines, self.metric):
            x, y = self.x(uar), self.y(value)
            if corners:
                corners.append((corners[-1][0], y))
            corners.append((x, y))
        return [svg.polyline(corners, class_="front")] if len(corners) > 1 else []

    def _whiskers(self, line: Series) -> list[str]:
        marks = []
        for point in line.points:
            x, y, tone = self.x(point.uar), self.y(point.value), f"whisker faint tone-{line.tone}"
            if point.uar_interval is not None:
                marks.append(svg.line(self.x(point.uar_interval[0]), y, self.x(point.uar_interval[1]), y, class_=tone))
            if point.interval is not None:
                marks.append(svg.line(x, self.y(point.interval[0]), x, self.y(point.interval[1]), class_=tone))
        return marks

    def _labels(self, lines: Sequence[Series]) -> list[str]:
        marks = []
        for line, point, above in placed_labels(lines, self.metric, self.span):
            x, y = self.x(point.uar), self.y(point.value) + (ABOVE if above else BELOW)
            marks.append(svg.text(x, y, point.label, class_=f"label tone-{line.tone}", anchor="middle"))
        return marks


def _key(lines: Sequence[Series], width: float) -> tuple[list[str], float]:
    """Marks and names of the lines, as many beside each other as there is room; and its height."""
    columns = max(1, min(len(lines), int((width - LEFT) // max(7.2 * max(len(line.name) for line in lines) + 40, 120))))
    pitch = (width - LEFT) / columns
    marks = []
    for index, line in enumerate(lines):
        x, y = LEFT + 8 + (index % columns) * pitch, TOP + HEIGHT + BOTTOM + 12 + (index // columns) * KEY
        marks.append(svg.marker(x, y, shape=line.shape, class_=f"mark tone-{line.tone}"))
        marks.append(svg.text(x + 14, y + 4.5, line.name))
    return marks, math.ceil(len(lines) / columns) * KEY + 8
