"""The table and the curves of a sweep, worded and ordered, so that pages and drawings only place them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.sweep_rows import SweepRow

SHAPES = ("circle", "square", "diamond", "triangle")
TONES = 6
INFINITE = "∞"
_SIGNS = {"epsilon": "ε", "budget_epsilon": "ε", "codebook_size": "k"}
"""Of keys whose values are bare numbers."""
HEADINGS = (
    "curve", "", "modality", "emotion UAR", "judge's UAR", "top-1", "EER",
    "release: nominal", "per clip", "per speaker", "model: nominal", "per clip", "per speaker",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One row as text."""

    cells: tuple[str, ...]
    why: str
    """Why figures are missing."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The table."""

    headings: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One cell in a plot. Coordinates are fractions; an interval is None where there is none."""

    uar: float
    uar_interval: tuple[float, float] | None
    value: float
    interval: tuple[float, float] | None
    label: str
    """What tells it from its neighbours on the line."""
    best: bool
    tip: str


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    name: str
    tone: int
    shape: str
    points: tuple[Point, ...]


def table_lines(rows: Sequence[SweepRow]) -> Lines:
    """Every row, in the order of the grid, without intervals: a terminal is narrow."""
    return Lines(HEADINGS, tuple(_line(row) for row in rows))


def groups(rows: Sequence[SweepRow]) -> dict[tuple[str, str], list[SweepRow]]:
    """Rows by corpus and modality: what may be compared."""
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in rows:
        found.setdefault((row.corpus, row.modality), []).append(row)
    return found


def series_of(rows: Sequence[SweepRow], metric: str) -> tuple[Series, ...]:
    """The lines of one plot: `metric` is `top1` or `eer`. Rows without both figures are in the table only.

    A line has the same tone and shape for every metric.
    """
    found = []
    for index, name in enumerate(dict.fromkeys(row.curve for row in rows)):
        mine = [row for row in rows if row.curve == name]
        points = tuple(p for row in mine if (p := _point(row, metric)) is not None)
        if points:
            found.append(Series(name, index % TONES, SHAPES[index % len(SHAPES)], points))
    return tuple(found)


def step_label(row: SweepRow) -> str:
    """The value that runs along the line."""
    key, value = next(iter(row.settings.items()), ("", None))
    if value is None:
        return ""
    shown = INFINITE if value == "inf" else f"{value:g}" if isinstance(value, int | float) else str(value)
    return f"{_SIGNS.get(key.rpartition('.')[2], '')} {shown}".strip()


def cell_text(row: SweepRow) -> str:
    """The step, with its key's name; what else is set is in the name of the curve."""
    key, value = next(iter(row.settings.items()), ("", ""))
    return f"{key.rpartition('.')[2]} {INFINITE if value == 'inf' else value}" if key else "as it is"


def epsilon_text(row: SweepRow, what: str) -> tuple[str, str, str]:
    """Nominal with its unit, composed per clip, composed per speaker. `what` is `release` or `model`."""
    if not row.folds:
        return "–", "–", "–"
    nominal, unit = getattr(row, f"{what}_nominal"), getattr(row, f"{what}_nominal_unit")
    claimed = "–" if nominal is None else f"{wording.epsilon(nominal)} per {unit}"
    clip, speaker = (wording.epsilon(getattr(row, f"{what}_{u}"), missing="none") for u in ("clip", "speaker"))
    return claimed, clip, speaker


def _line(row: SweepRow) -> Line:
    figures = (wording.percent(value, sign=False) for value in (row.uar, row.evaluator_uar, row.top1, row.eer))
    cells = (row.curve, cell_text(row), row.modality, *figures)
    return Line((*cells, *epsilon_text(row, "release"), *epsilon_text(row, "model")), row.failed or row.note)


def _point(row: SweepRow, metric: str) -> Point | None:
    value = getattr(row, metric)
    if row.uar is None or value is None:
        return None
    low, high = getattr(row, f"{metric}_low"), getattr(row, f"{metric}_high")
    description = (
        f"{row.curve}{', ' if row.settings_text else ''}{row.settings_text}: emotion UAR {wording.percent(row.uar)}, "
    )
    return Point(
        uar=row.uar,
        uar_interval=None if row.uar_low is None or row.uar_high is None else (row.uar_low, row.uar_high),
        value=value,
        interval=None if low is None or high is None else (low, high),
        label=step_label(row),
        best=getattr(row, f"best_{metric}"),
        tip=(
            f"{description}{wording.metric_label(metric).label} {wording.percent(value)} "
            f"by {getattr(row, f'{metric}_by')}"
        ),
    )
