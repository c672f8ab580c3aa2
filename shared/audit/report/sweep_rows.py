"""What `sweep.json` and `sweep.csv` hold, one row for each cell of the grid and modality; and its texts for tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Count, Fraction, Record, Seconds

Scalar = str | int | float | bool
INFINITE = "∞"
_SIGNS = {"epsilon": "ε", "budget_epsilon": "ε", "codebook_size": "k"}
"""Of keys whose values are bare numbers."""
HEADINGS = (
    "curve", "", "modality", "emotion UAR", "evaluator's UAR", "top-1", "EER",
    "release: nominal", "per clip", "per speaker", "model: nominal", "per clip", "per speaker",
)  # fmt: skip
"""Of `table_cells`."""


class SweepRow(Record):
    """One cell, over all its seeds and tested folds. What is unknown is null, with the reason in `note` or `failed`.

    Every epsilon is that of the clip or the speaker that loses most, at the worst site, composed by the sites' ledgers;
    null is no finite guarantee. `release_...` is what leaves the sites, `model_...` what the models alone reveal.
    """

    curve: str
    corpus: str
    modality: str
    settings: dict[str, Scalar]
    """What makes this cell differ from others, by key of the study."""
    seeds: tuple[int, ...]
    folds: Count = 0
    """Tested folds; 0 where training failed, and then no ledger is read."""
    uar: Fraction | None = None
    """Of the federated model, on speakers it was not trained on; the mean over seeds."""
    uar_low: Fraction | None = None
    uar_high: Fraction | None = None
    uar_chance: Fraction | None = None
    test_speakers: Count = 0
    test_clips: Count = 0
    evaluator: str = ""
    """The utility evaluator that recognises most in releases."""
    evaluator_uar: Fraction | None = None
    evaluator_low: Fraction | None = None
    evaluator_high: Fraction | None = None
    top1: Fraction | None = None
    """Of the strongest attacker."""
    top1_low: Fraction | None = None
    top1_high: Fraction | None = None
    top1_chance: Fraction | None = None
    top1_unprotected: Fraction | None = None
    """Of the strongest attacker on the original recordings."""
    top1_by: str = ""
    eer: Fraction | None = None
    eer_low: Fraction | None = None
    eer_high: Fraction | None = None
    eer_chance: Fraction | None = None
    eer_unprotected: Fraction | None = None
    eer_by: str = ""
    release_nominal: float | None = Field(default=None, ge=0)
    """What the anonymizer's own parameters claim, for the smallest unit it names."""
    release_nominal_unit: str = ""
    release_clip: float | None = Field(default=None, ge=0)
    release_speaker: float | None = Field(default=None, ge=0)
    model_nominal: float | None = Field(default=None, ge=0)
    """The target of DP-SGD; null without it."""
    model_nominal_unit: str = ""
    model_clip: float | None = Field(default=None, ge=0)
    model_speaker: float | None = Field(default=None, ge=0)
    model_site: float | None = Field(default=None, ge=0)
    """Of a whole site, where the study bounds that."""
    delta: float = Field(default=0.0, ge=0, lt=1)
    best_top1: bool = False
    """On the Pareto front of emotion UAR and top-1."""
    best_eer: bool = False
    """On the Pareto front of emotion UAR and EER."""
    note: str = ""
    """Why nobody was attacked, where that cannot be."""
    failed: str = ""
    """What went wrong: figures that come from it are null."""

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
    synthetic: bool
    """Some of the clips were made by a program."""
    rows: tuple[SweepRow, ...]
    grid: dict[str, Any]
    """As it was written."""
    command: str
    versions: dict[str, str]
    finished: str
    """UTC, ISO 8601."""
    seconds: Seconds
    work: dict[str, Count]
    """How many releases, audits and trainings the figures stand on."""
    warnings: tuple[str, ...] = ()


def groups(rows: Sequence[SweepRow]) -> dict[tuple[str, str], list[SweepRow]]:
    """Rows by corpus and modality: what may be compared."""
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in rows:
        found.setdefault((row.corpus, row.modality), []).append(row)
    return found


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


def table_cells(row: SweepRow) -> tuple[str, ...]:
    """One line of a terminal's table, without intervals: a terminal is narrow."""
    figures = (wording.percent(value, sign=False) for value in (row.uar, row.evaluator_uar, row.top1, row.eer))
    budgets = (*epsilon_text(row, "release"), *epsilon_text(row, "model"))
    return (row.curve, cell_text(row), row.modality, *figures, *budgets)


def with_fronts(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """Mark the rows that no other of the same corpus and modality beats in emotion and in identity at once."""
    marked = list(rows)
    for where in groups(rows):
        for metric, sign in (("top1", -1.0), ("eer", 1.0)):
            here = [i for i, r in enumerate(marked) if (r.corpus, r.modality) == where]
            known = [i for i in here if marked[i].uar is not None and marked[i].figure(metric)[0] is not None]
            points = [(float(marked[i].uar or 0.0), sign * getattr(marked[i], metric)) for i in known]
            for index, best in zip(known, pareto_front(points), strict=True):
                marked[index] = marked[index].model_copy(update={f"best_{metric}": best})
    return tuple(marked)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points are not dominated, where more is better in both coordinates.

    A point is dominated by another that is at least as good in both and better in one. Of equal points all stay.

    >>> pareto_front([(0.5, 0.1), (0.4, 0.3), (0.4, 0.2), (0.5, 0.1)])
    [True, True, False, True]
    """
    front = [False] * len(points)
    best = float("-inf")
    order = sorted(range(len(points)), key=lambda index: points[index], reverse=True)
    last: tuple[float, float] | None = None
    for index in order:
        first, second = points[index]
        if second > best or points[index] == last:
            front[index] = True
            best, last = max(best, second), (first, second)
    return front


def as_csv(rows: Sequence[SweepRow]) -> str:
    """The same rows with a column for every key that is swept; empty is null, yes and no are `true` and `false`."""
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    fields = [name for name in SweepRow.model_fields if name not in ("settings", "seeds")]
    head, rest = fields[:3], fields[3:]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, *keys, "seeds", *rest])
    for row in rows:
        content = row.model_dump()
        swept = [_cell(row.settings.get(key)) for key in keys]
        seeds = " ".join(map(str, row.seeds))
        writer.writerow([*(_cell(content[n]) for n in head), *swept, seeds, *(_cell(content[n]) for n in rest)])
    return buffer.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
