"""The report's figures as inline SVG: confusion matrices and the privacy loss over rounds.

The larger ones have files of their own: `forest` (all attackers) and `tradeoff` (utility against leakage).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from moretta.shared.audit.report import svg, wording
from moretta.shared.audit.report.report_schema import EmotionTable, PrivacyRow

CELL = 41.0
"""Side of a confusion cell, in px."""


def confusion_matrix(table: EmotionTable, *, name: str, title: str) -> str:
    """Rows are the true emotion, columns the predicted one; shade and figure are percent of the row."""
    size = len(table.classes)
    left, top = 58.0, 40.0
    body = [
        svg.text(left + size * CELL / 2, 14, "predicted", class_="axis", anchor="middle"),
        svg.text(4, 34, "true", class_="axis"),
    ]
    for index, label in enumerate(table.classes):
        centre = (index + 0.5) * CELL
        body.append(svg.text(left + centre, top - 7, label, class_="tick", anchor="middle"))
        body.append(svg.text(left - 8, top + centre + 4, label, class_="tick", anchor="end"))
    for row, counts in enumerate(table.confusion):
        total = sum(counts)
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            x, y = left + column * CELL, top + row * CELL
            body.append(
                svg.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, class_="heat", opacity=0.04 + 0.66 * share)
                if total
                else svg.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, class_="empty")
            )
            label = f"{100 * share:.0f}" if total else "–"
            emphasis = "cell-true" if row == column else "cell"
            body.append(svg.text(x + CELL / 2, y + CELL / 2 + 4.5, label, class_=emphasis, anchor="middle"))
    described = "; ".join(
        f"{label} is recognised in {wording.percent(score.recall)} of {wording.format_count(score.clips, 'clip')}"
        for label, score in zip(table.classes, table.per_class, strict=True)
    )
    return svg.figure(
        left + size * CELL + 4, top + size * CELL + 4, body, name=name, title=title, description=described
    )


def epsilon_over_rounds(rows: Sequence[PrivacyRow], *, name: str, limit: float | None = None) -> str | None:
    """Guaranteed epsilon after each round: the highest of the sites as a line, all sites as a band.

    Args:
        rows: privacy rows; those without a round or without a finite epsilon are left out.
        name: unique in the page.
        limit: the gate's `max_epsilon`, drawn if given.

    Returns:
        The drawing, or None if no mechanism has at least one round.
    """
    series: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.round is not None and row.epsilon is not None:
            series[row.mechanism, row.unit][row.round].append(row.epsilon)
    if not series:
        return None
    width, height, left, right, top, bottom = 760.0, 280.0, 56.0, 220.0, 22.0, 40.0
    numbers = sorted({number for rounds in series.values() for number in rounds})
    first, last = numbers[0], numbers[-1]
    largest = max(value for rounds in series.values() for values in rounds.values() for value in values)
    ceiling = nice_ceiling(max(largest, limit or 0.0))

    def place(number: float, value: float) -> tuple[float, float]:
        across = (number - first) / (last - first) if last > first else 0.5
        return left + across * (width - left - right), height - bottom - value / ceiling * (height - top - bottom)

    body = [svg.text(left, 12, "epsilon spent (guaranteed)", class_="axis")]
    for step in range(5):
        value = ceiling * step / 4
        _, y = place(first, value)
        body.append(svg.line(left, y, width - right, y, class_="grid"))
        body.append(svg.text(left - 8, y + 4, f"{value:.3g}", class_="tick", anchor="end"))
    for number in numbers[:: max(1, len(numbers) // 10)]:
        x, _ = place(number, 0)
        body.append(svg.text(x, height - bottom + 18, str(number), class_="tick", anchor="middle"))
    body.append(svg.text((left + width - right) / 2, height - 4, "round", class_="axis", anchor="middle"))
    ends, labels = [], []
    for index, ((mechanism, unit), rounds) in enumerate(sorted(series.items())):
        tone = f"tone-{index % 4}"
        high = [place(number, max(rounds[number])) for number in sorted(rounds)]
        low = [place(number, min(rounds[number])) for number in sorted(rounds)]
        body.append(svg.polygon(high + low[::-1], class_=f"band {tone}"))
        body.append(svg.polyline(high, class_=f"curve {tone}"))
        body.extend(svg.marker(x, y, shape="circle", class_=f"dot {tone}", size=2.5) for x, y in high)
        ends.append(high[-1][1] + 4)
        labels.append((f"{mechanism}, per {unit}", f"label {tone}"))
    if limit is not None:
        _, y = place(first, limit)
        body.append(svg.line(left, y, width - right, y, class_="limit"))
        ends.append(y + 4)
        labels.append((f"gate: {limit:.3g}", "label limit-label"))
    for y, (label, class_) in zip(svg.spread(ends, gap=16, low=top, high=height - bottom), labels, strict=True):
        body.append(svg.text(width - right + 10, y, label, class_=class_))
    described = "; ".join(
        f"{mechanism} per {unit}: {wording.epsilon(max(rounds[min(rounds)]))} after round {min(rounds)}, "
        f"{wording.epsilon(max(rounds[max(rounds)]))} after round {max(rounds)}"
        for (mechanism, unit), rounds in sorted(series.items())
    )
    return svg.figure(width, height, body, name=name, title="Privacy loss over rounds", description=described)


def nice_ceiling(value: float) -> float:
    """The next round number at or above a value.

    >>> nice_ceiling(7.2), nice_ceiling(0.031), nice_ceiling(0)
    (8.0, 0.04, 1.0)
    """
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 10.0 ** -_leading_zeros(value)
    return next(round(step * power, 12) for step in (1.0, 2.0, 4.0, 8.0, 10.0, 20.0) if step * power >= value)


def _leading_zeros(value: float) -> int:
    places = 0
    while value < 1:
        value *= 10
        places += 1
    return places
