"""Rows of `sweep.json` and `sweep.csv`, one for each cell of the grid and modality; and their texts for tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Annotated, Any

from pydantic import Field

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Count, Fraction, Record, Seconds
from moretta.shared.core.printable import to_csv

Scalar = str | int | float | bool
Epsilon = Annotated[float | None, Field(ge=0)]
INFINITE = "∞"
_SIGNS = {"epsilon": "ε", "budget_epsilon": "ε", "codebook_size": "k"}  # of keys whose values are bare numbers
HEADINGS = (
    "curve", "", "modality", "emotion UAR", "evaluator's UAR", "top-1", "EER",
    "release: nominal", "per clip", "per speaker", "model: nominal", "per clip", "per speaker",
)  # fmt: skip
"""Headings of the columns of `table_cells`."""


class SweepRow(Record):
    """One cell, over all its seeds and tested folds. An unknown figure is null, with the reason in `note` or `failed`.

    Every epsilon is that of the clip or the speaker that loses most, at the worst site, composed by the sites' ledgers;
    null is no finite guarantee. `release_...` is what leaves the sites, `model_...` what the models alone reveal.
    `uar` is of the federated model on speakers it was not trained on, the mean over seeds; `evaluator` the utility
    evaluator that recognises most in releases; `top1` and `eer` are of the strongest attacker on releases,
    `..._unprotected` on the original recordings; `best_...` marks the Pareto front of UAR and that metric.
    """

    curve: str
    corpus: str
    modality: str
    settings: dict[str, Scalar]  # what makes this cell differ from others, by key of the study
    seeds: tuple[int, ...]
    folds: Count = 0  # tested folds; 0 where training failed, and then no ledger is read
    uar: Fraction | None = None
    uar_low: Fraction | None = None
    uar_high: Fraction | None = None
    uar_chance: Fraction | None = None
    test_speakers: Count = 0
    test_clips: Count = 0
    evaluator: str = ""
    evaluator_uar: Fraction | None = None
    evaluator_low: Fraction | None = None
    evaluator_high: Fraction | None = None
    top1: Fraction | None = None
    top1_low: Fraction | None = None
    top1_high: Fraction | None = None
    top1_chance: Fraction | None = None
    top1_unprotected: Fraction | None = None
    top1_by: str = ""
    eer: Fraction | None = None
    eer_low: Fraction | None = None
    eer_high: Fraction | None = None
    eer_chance: Fraction | None = None
    eer_unprotected: Fraction | None = None
    eer_by: str = ""
    release_nominal: Epsilon = None  # what the anonymizer's own parameters claim, for the smallest unit it names
    release_nominal_unit: str = ""
    release_clip: Epsilon = None
    release_speaker: Epsilon = None
    model_nominal: Epsilon = None  # the target of DP-SGD; null without it
    model_nominal_unit: str = ""
    model_clip: Epsilon = None
    model_speaker: Epsilon = None
    model_site: Epsilon = None  # of a whole site, where the study bounds that
    delta: float = Field(default=0.0, ge=0, lt=1)
    best_top1: bool = False
    best_eer: bool = False
    note: str = ""  # why nobody was attacked, where that cannot be
    failed: str = ""  # what went wrong: figures that come from it are null

    @property
    def settings_text(self) -> str:
        """The settings, short: the last part of each key."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items())

    def figure(self, metric: str) -> tuple[float | None, float | None, float | None]:
        """Value, low and high of `top1` or `eer`."""
        return getattr(self, metric), getattr(self, f"{metric}_low"), getattr(self, f"{metric}_high")


class SweepReport(Record):
    """The whole of `sweep.json`."""

    format: int = 1
    name: str
    synthetic: bool  # some of the clips were made by a program
    rows: tuple[SweepRow, ...]
    grid: dict[str, Any]  # as it was written
    command: str
    versions: dict[str, str]
    finished: str  # UTC, ISO 8601
    seconds: Seconds
    work: dict[str, Count]  # how many releases, audits and trainings the figures stand on
    warnings: tuple[str, ...] = ()


def groups(rows: Sequence[SweepRow]) -> dict[tuple[str, str], list[SweepRow]]:
    """Rows by corpus and modality: what may be compared."""
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in rows:
        found.setdefault((row.corpus, row.modality), []).append(row)
    return found


def drawn(rows: Sequence[SweepRow], metric: str) -> list[SweepRow]:
    """Rows that have both emotion UAR and the metric; the others are in the table only."""
    return [row for row in rows if row.uar is not None and getattr(row, metric) is not None]


def step_label(row: SweepRow) -> str:
    """The value that runs along the line."""
    key, value = next(iter(row.settings.items()), ("", ""))
    shown = INFINITE if value == "inf" else f"{value:g}" if isinstance(value, int | float) else value
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


def table_cells(row: SweepRow) -> tuple[str, ...]:
    """One line of a terminal's table, without intervals: a terminal is narrow."""
    figures = (wording.percent(value, sign=False) for value in (row.uar, row.evaluator_uar, row.top1, row.eer))
    budgets = (*epsilon_text(row, "release"), *epsilon_text(row, "model"))
    return (row.curve, cell_text(row), row.modality, *figures, *budgets)


def with_fronts(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """Mark the rows that no other of the same corpus and modality beats in emotion and in identity at once."""
    best: dict[str, list[SweepRow]] = {"top1": [], "eer": []}
    for group in groups(rows).values():
        for metric, found in best.items():
            known = drawn(group, metric)
            found.extend(compress(known, front(known, metric)))
    return tuple(row.model_copy(update={f"best_{m}": row in found for m, found in best.items()}) for row in rows)


def front(rows: Sequence[SweepRow], metric: str) -> list[bool]:
    """Which of the rows that have both figures are on the Pareto front of emotion UAR and the metric."""
    sign = 1 if metric == "eer" else -1
    return pareto_front([(row.uar or 0.0, sign * getattr(row, metric)) for row in rows])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points are not dominated, where more is better in both coordinates. Of equal points all stay.

    >>> pareto_front([(0.5, 0.1), (0.4, 0.3), (0.4, 0.2), (0.5, 0.1)])
    [True, True, False, True]
    """
    return [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def as_csv(rows: Sequence[SweepRow]) -> str:
    """The rows as CSV, with a column for every key that is swept; null is empty, yes and no are `true` and `false`."""
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    fields = [name for name in SweepRow.model_fields if name not in ("settings", "seeds")]
    headings, lines = [*fields[:3], *keys, "seeds", *fields[3:]], []
    for row in rows:
        content = {**row.model_dump(), **row.settings, "seeds": " ".join(map(str, row.seeds))}
        values = map(content.get, headings)
        lines.append([str(value).lower() if isinstance(value, bool) else value for value in values])
    return to_csv(headings, lines)
