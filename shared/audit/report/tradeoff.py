"""The trade-off: how well emotion is recognised against how well people are."""

from __future__ import annotations

from collections.abc import Sequence

from moretta.shared.audit.report import svg, wording
from moretta.shared.audit.report.forest import scenario_order
from moretta.shared.audit.report.headline import ANCHORS, HEADLINE_METRICS, UNPROTECTED, strongest, whole
from moretta.shared.audit.report.report_schema import AuditRow, EmotionResult, EmotionResults

SIDE, LEFT, TOP, BOTTOM, LABELS, GAP = 300.0, 52.0, 40.0, 48.0, 128.0, 16.0
SHAPES = {"ignorant": "circle", "lazy-informed": "triangle", "semi-informed": "square"}
TONES = {"voice": "tone-0", "face": "tone-1"}


def tradeoff_plot(emotion: EmotionResults, rows: Sequence[AuditRow], *, name: str) -> str | None:
    """Emotion UAR across, the strongest attacker of each scenario up; one panel for top-1, one for EER.

    Up is more leakage in both panels: the EER axis runs downwards. Good releases lie low and to the right. Dashed lines
    are chance, dotted ones the strongest attacker on unprotected data.

    Returns:
        The drawing, or None if no modality has both an emotion result and an attack that counts.
    """
    results = {m: r for m, r in emotion.by_modality().items() if r is not None}
    attacked = [row for row in whole(rows) if row.modality in results]
    metrics = [m for m in HEADLINE_METRICS if any(r.metric == m and r.scenario not in ANCHORS for r in attacked)]
    if not metrics:
        return None
    pitch = LEFT + SIDE + LABELS + GAP
    body: list[str] = []
    descriptions: list[str] = []
    for index, metric in enumerate(metrics):
        panel = _TradeoffPanel(metric, LEFT + index * pitch)
        body.extend(panel.frame())
        marks, sentences = panel.content({str(m): r for m, r in results.items()}, attacked)
        body.extend(marks)
        descriptions.extend(sentences)
    shown = [s for s in SHAPES if any(row.scenario == s for row in attacked)]
    for index, scenario in enumerate(shown):
        x = LEFT + 8 + index * 130
        body.append(svg.marker(x, TOP + SIDE + BOTTOM + 8, shape=SHAPES[scenario], class_="mark key"))
        body.append(svg.text(x + 12, TOP + SIDE + BOTTOM + 12, scenario, class_="tick"))
    return svg.figure(
        len(metrics) * pitch - GAP,
        TOP + SIDE + BOTTOM + 22,
        body,
        name=name,
        title="Trade-off between emotion recognition and re-identification",
        description="; ".join(descriptions),
    )


class _TradeoffPanel:
    """One metric's square, with its left edge at `left`."""

    def __init__(self, metric: str, left: float) -> None:
        self.metric = metric
        self.left = left

    def x(self, uar: float) -> float:
        return self.left + uar * SIDE

    def y(self, value: float) -> float:
        leak = 1 - value / 0.6 if self.metric == "eer" else value
        return TOP + (1 - min(max(leak, 0.0), 1.0)) * SIDE

    def frame(self) -> list[str]:
        label = wording.metric_label(self.metric).label
        marks = [
            svg.text(self.left, 14, f"{label} of the strongest attacker", class_="axis"),
            svg.text(self.left, 30, "↑ more leakage", class_="hint"),
            svg.text(self.left + SIDE, TOP + SIDE + 34, "emotion UAR →", class_="axis", anchor="end"),
        ]
        steps = 6 if self.metric == "eer" else 5
        top = 0.6 if self.metric == "eer" else 1.0
        for step in range(steps + 1):
            y = self.y(top * step / steps)
            marks.append(svg.line(self.left, y, self.left + SIDE, y, class_="grid"))
            marks.append(
                svg.text(self.left - 8, y + 4, f"{100 * top * step / steps:.0f} %", class_="tick", anchor="end")
            )
        for step in range(6):
            x = self.x(step / 5)
            marks.append(svg.line(x, TOP, x, TOP + SIDE, class_="grid"))
            marks.append(svg.text(x, TOP + SIDE + 17, f"{20 * step} %", class_="tick", anchor="middle"))
        return marks

    def content(self, results: dict[str, EmotionResult], rows: Sequence[AuditRow]) -> tuple[list[str], list[str]]:
        marks: list[str] = []
        descriptions: list[str] = []
        labels: list[tuple[float, str, str]] = []
        mine = [row for row in rows if row.metric == self.metric]
        for chance in sorted({row.chance for row in mine if row.chance is not None}):
            labels.append((self.y(chance), f"chance {wording.percent(chance)}", "hint"))
            marks.append(svg.line(self.left, self.y(chance), self.left + SIDE, self.y(chance), class_="chance"))
        for chance in sorted({results[row.modality].chance for row in mine}):
            marks.append(svg.line(self.x(chance), TOP, self.x(chance), TOP + SIDE, class_="chance"))
        for modality, result in results.items():
            tone = TONES.get(modality, "tone-2")
            anchor = strongest([r for r in mine if r.modality == modality and r.scenario == UNPROTECTED], self.metric)
            if anchor is not None and anchor.value is not None:
                y = self.y(anchor.value)
                marks.append(svg.line(self.left, y, self.left + SIDE, y, class_=f"anchor {tone}"))
                labels.append((y, f"{modality} unprotected", f"label {tone}"))
            for row in self._strongest_by_scenario(mine, modality):
                marks.extend(self._point(row, result, tone))
                descriptions.append(
                    f"{modality}, {row.scenario}: emotion UAR {wording.percent(result.uar)}, "
                    f"{wording.metric_label(row.metric).label} {wording.figure(row.value, row.metric)}"
                )
            released = [r for r in mine if r.modality == modality and r.scenario not in ANCHORS]
            found = strongest(released, self.metric)
            if found is not None and found.value is not None:
                labels.append(
                    (self.y(found.value), f"{modality} {wording.percent(found.value)}", f"label strong {tone}")
                )
        placed = svg.spread([y for y, _, _ in labels], gap=15, low=TOP, high=TOP + SIDE)
        for y, (_, label, class_) in zip(placed, labels, strict=True):
            marks.append(svg.text(self.left + SIDE + 8, y + 4, label, class_=class_))
        return marks, descriptions

    def _strongest_by_scenario(self, rows: Sequence[AuditRow], modality: str) -> list[AuditRow]:
        scenarios = {r.scenario for r in rows if r.modality == modality and r.scenario not in ANCHORS}
        found = [
            strongest([r for r in rows if r.modality == modality and r.scenario == scenario], self.metric)
            for scenario in sorted(scenarios, key=scenario_order)
        ]
        return [row for row in found if row is not None]

    def _point(self, row: AuditRow, result: EmotionResult, tone: str) -> list[str]:
        value = row.value or 0.0
        x, y = self.x(result.uar), self.y(value)
        marks = []
        if result.uar_low is not None and result.uar_high is not None:
            marks.append(svg.line(self.x(result.uar_low), y, self.x(result.uar_high), y, class_=f"whisker {tone}"))
        if row.low is not None and row.high is not None:
            marks.append(svg.line(x, self.y(row.low), x, self.y(row.high), class_=f"whisker {tone}"))
        tip = f"{row.modality}, {row.scenario}, {row.attacker}: {wording.figure(value, row.metric)}"
        marks.append(svg.marker(x, y, shape=SHAPES.get(row.scenario, "diamond"), class_=f"mark {tone}", tip=tip))
        return marks
