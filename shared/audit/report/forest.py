"""The forest plot of the audit: every attacker's figure with its interval, grouped by what the attacker knows."""

from __future__ import annotations

from collections.abc import Sequence

from moretta.shared.audit.report import svg, wording
from moretta.shared.audit.report.headline import ALL, ANCHORS, HEADLINE_METRICS, strongest, whole
from moretta.shared.audit.report.report_schema import AuditRow
from moretta.shared.audit.report.wording import SCENARIOS

ROW = 21.0
"""Height of one attacker, in px."""
LEFT, PANEL, GAP, TOP, BOTTOM = 226.0, 360.0, 60.0, 34.0, 40.0


def forest_plot(rows: Sequence[AuditRow], *, name: str, title: str) -> str | None:
    """Draw the attackers of one modality; one panel for each headline metric that occurs.

    Invalid attackers are hollow and grey; the strongest that counts is emphasised; the dashed line is chance.

    Returns:
        The drawing, or None if no row has a headline metric.
    """
    shown = [
        r for r in rows if r.metric in HEADLINE_METRICS and r.subset == ALL and r.pooled == 1 and r.value is not None
    ]
    metrics = [metric for metric in HEADLINE_METRICS if any(row.metric == metric for row in shown)]
    if not metrics:
        return None
    groups = _groups(shown)
    lines = sum(len(attackers) + 1 for attackers in groups.values())
    height = TOP + lines * ROW + BOTTOM
    width = LEFT + len(metrics) * PANEL + (len(metrics) - 1) * GAP + 24
    body: list[str] = []
    for index, metric in enumerate(metrics):
        body.extend(_panel_frame(shown, metric, LEFT + index * (PANEL + GAP), height))
    best = {metric: _strongest(shown, metric) for metric in metrics}
    y = TOP + ROW / 2
    for scenario, attackers in groups.items():
        body.append(svg.text(0, y + 4, scenario, class_="group"))
        y += ROW
        for attacker in attackers:
            found = [row for row in shown if row.scenario == scenario and row.attacker == attacker]
            invalid = all(row.invalid for row in found)
            body.append(
                svg.text(
                    14, y + 4, attacker + (" (invalid)" if invalid else ""), class_="invalid-label" if invalid else ""
                )
            )
            for row in found:
                left = LEFT + metrics.index(row.metric) * (PANEL + GAP)
                body.extend(_mark(row, left, y, emphasised=row is best[row.metric]))
            y += ROW
    described = "; ".join(
        f"{row.attacker}, {row.scenario}: {wording.metric_label(row.metric).label} "
        f"{wording.figure(row.value, row.metric)}{' (invalid)' if row.invalid else ''}"
        for row in shown
    )
    return svg.figure(width, height, body, name=name, title=title, description=described)


def _groups(rows: Sequence[AuditRow]) -> dict[str, list[str]]:
    scenarios = sorted({row.scenario for row in rows}, key=scenario_order)
    return {
        scenario: list(dict.fromkeys(row.attacker for row in rows if row.scenario == scenario))
        for scenario in scenarios
    }


def scenario_order(scenario: str) -> tuple[int, str]:
    """Sorts scenarios as the design lists them, unknown ones last."""
    known = list(SCENARIOS)
    return (known.index(scenario) if scenario in known else len(known), scenario)


def _strongest(rows: Sequence[AuditRow], metric: str) -> AuditRow | None:
    return strongest([row for row in whole(rows) if row.scenario not in ANCHORS], metric)


def _scale(metric: str) -> float:
    return 0.6 if metric == "eer" else 1.0


def _x(value: float, metric: str, left: float) -> float:
    return left + min(max(value / _scale(metric), 0.0), 1.0) * PANEL


def _panel_frame(rows: Sequence[AuditRow], metric: str, left: float, height: float) -> list[str]:
    end = height - BOTTOM
    heading = {"top1": "Top-1: right speaker named", "eer": "EER: errors in verification"}[metric]
    weaker = {"top1": "more leakage →", "eer": "← more leakage"}[metric]
    marks = [
        svg.text(left, 12, heading, class_="axis"),
        svg.text(left + PANEL, 12, weaker, class_="hint", anchor="end"),
    ]
    steps = 6 if metric == "eer" else 5
    for step in range(steps + 1):
        value = _scale(metric) * step / steps
        x = _x(value, metric, left)
        marks.append(svg.line(x, TOP - 10, x, end, class_="grid"))
        marks.append(svg.text(x, end + 16, f"{100 * value:.0f} %", class_="tick", anchor="middle"))
    for chance in sorted({row.chance for row in rows if row.metric == metric and row.chance is not None}):
        x = _x(chance, metric, left)
        marks.append(svg.line(x, TOP - 10, x, end, class_="chance"))
        marks.append(svg.text(x, end + 32, f"chance {wording.percent(chance)}", class_="hint", anchor="middle"))
    return marks


def _mark(row: AuditRow, left: float, y: float, *, emphasised: bool) -> list[str]:
    value = row.value or 0.0
    state = (
        "invalid"
        if row.invalid
        else "strongest"
        if emphasised
        else row.kind
        if row.kind == "pretrained"
        else "adaptive"
    )
    marks = []
    if row.low is not None and row.high is not None:
        marks.append(
            svg.line(_x(row.low, row.metric, left), y, _x(row.high, row.metric, left), y, class_=f"whisker {state}")
        )
    shown = f"{wording.figure(value, row.metric)} {wording.interval(row.low, row.high, row.metric)}"
    tip = f"{row.attacker}, {row.scenario}: {shown}"
    shape = "diamond" if row.kind == "pretrained" else "circle"
    marks.append(svg.marker(_x(value, row.metric, left), y, shape=shape, class_=f"mark {state}", tip=tip, size=4.5))
    return marks
