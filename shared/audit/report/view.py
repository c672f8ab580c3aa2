"""The tables of `report.html`, worded and ordered, so that the template only places them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.headline import ALL, HEADLINE_METRICS
from moretta.shared.audit.report.report_schema import PrivacyRow, Result
from moretta.shared.audit.report.summary import latest
from moretta.shared.audit.report.wording import scenario_order

METRICS_PER_TABLE = 5
"""So many fit beside the attacker's name on a laptop."""
UNITS = ("value", "frame", "clip", "speaker", "site")


@dataclass(frozen=True, slots=True)
class TableCell:
    """One figure, with its interval and its chance level."""

    value: str = "–"
    interval: str = ""
    chance: str = ""
    invalid: bool = False


@dataclass(frozen=True, slots=True)
class AttackerLine:
    """One attacker's figures in one scenario."""

    attacker: str
    kind: str
    extent: str
    cells: tuple[TableCell, ...]
    invalid: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """All attackers of one modality and scenario."""

    scenario: str
    meaning: str
    metrics: tuple[wording.MetricLabel, ...]
    lines: tuple[AttackerLine, ...]


@dataclass(frozen=True, slots=True)
class ModalityAudit:
    """The audit of one modality."""

    modality: str
    label: str
    tables: tuple[ScenarioTable, ...]
    breakdown: tuple[Result, ...]
    """Figures of subsets and of pooled clips."""
    one_speaker: int
    """Figures of single speakers: too many for a page, all in report.json."""
    absent: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One mechanism at one site, or the worst of all sites."""

    mechanism: str
    site: str
    cells: tuple[tuple[str, str], ...]
    """(claimed by its parameters, guaranteed) for each unit."""
    delta: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrivacyTables:
    """The privacy tables."""

    units: tuple[str, ...]
    worst: tuple[BudgetLine, ...]
    sites: tuple[BudgetLine, ...]


def audit_view(rows: Sequence[Result]) -> tuple[ModalityAudit, ...]:
    """The audit by modality, in order of first appearance."""
    return tuple(
        _modality(modality, [row for row in rows if row.modality == modality])
        for modality in dict.fromkeys(row.modality for row in rows)
    )


def budget_view(rows: Sequence[PrivacyRow]) -> PrivacyTables:
    """Nominal and composed figures side by side, for the worst site and for each."""
    final = latest(rows)
    units = tuple(unit for unit in UNITS if any(row.unit == unit for row in final))
    mechanisms = tuple(dict.fromkeys(row.mechanism for row in final))
    worst = []
    sites = []
    for mechanism in mechanisms:
        mine = [row for row in final if row.mechanism == mechanism]
        names = tuple(dict.fromkeys(row.site for row in mine))
        worst.append(_budget_line(mechanism, "all" if len(names) != 1 else names[0], mine, units))
        for site in names:
            sites.append(_budget_line(mechanism, site, [row for row in mine if row.site == site], units))
    return PrivacyTables(units, tuple(worst), tuple(sites))


def _modality(modality: str, rows: Sequence[Result]) -> ModalityAudit:
    absent = [row for row in rows if _is_absent(row)]
    present = [row for row in rows if not _is_absent(row)]
    whole = [row for row in present if _is_whole(row)]
    breakdown = [row for row in present if not _is_whole(row) and not _is_one_speaker(row)]
    tables: list[ScenarioTable] = []
    for scenario in sorted({row.scenario for row in whole}, key=scenario_order):
        tables.extend(_scenario_tables(scenario, [row for row in whole if row.scenario == scenario]))
    return ModalityAudit(
        modality,
        wording.modality_label(modality),
        tuple(tables),
        tuple(breakdown),
        sum(map(_is_one_speaker, present)),
        tuple(_once(absent)),
    )


def _is_absent(row: Result) -> bool:
    return row.value is None and row.clips == 0


def _is_whole(row: Result) -> bool:
    return row.subset == ALL and row.pooled == 1


def _is_one_speaker(row: Result) -> bool:
    return re.fullmatch(r"[0-9a-f]{16}", row.subset) is not None


def _once(rows: Sequence[Result]) -> list[Result]:
    return list({(row.attacker, row.reason): row for row in rows}.values())


def _scenario_tables(scenario: str, rows: Sequence[Result]) -> list[ScenarioTable]:
    known = [*HEADLINE_METRICS, *wording.METRICS]
    names = sorted({row.metric for row in rows}, key=lambda m: (known.index(m) if m in known else len(known), m))
    tables = []
    for start in range(0, len(names), METRICS_PER_TABLE):
        chunk = names[start : start + METRICS_PER_TABLE]
        attackers = dict.fromkeys(row.attacker for row in rows if row.metric in chunk)
        lines = tuple(_line([row for row in rows if row.attacker == attacker], chunk) for attacker in attackers)
        meaning = wording.SCENARIOS.get(scenario, "") if start == 0 else ""
        tables.append(ScenarioTable(scenario, meaning, tuple(wording.metric_label(m) for m in chunk), lines))
    return tables


def _line(rows: Sequence[Result], metrics: Sequence[str]) -> AttackerLine:
    by_metric = {row.metric: row for row in rows}
    cells = tuple(_cell(by_metric[metric]) if metric in by_metric else TableCell() for metric in metrics)
    shown = [row for row in rows if row.metric in metrics]
    reasons = dict.fromkeys(row.reason for row in shown if row.invalid and row.reason)
    speakers, clips = max(row.speakers for row in shown), max(row.clips for row in shown)
    return AttackerLine(
        rows[0].attacker,
        rows[0].kind,
        f"{speakers} / {clips:,}" if clips else str(speakers),
        cells,
        all(row.invalid for row in shown),
        "; ".join(reasons),
    )


def _cell(row: Result) -> TableCell:
    return TableCell(
        wording.figure(row.value, row.metric, sign=False),
        wording.interval(row.low, row.high, row.metric),
        wording.figure(row.chance, row.metric, sign=False) if row.chance is not None else "",
        row.invalid,
    )


def _budget_line(mechanism: str, site: str, rows: Sequence[PrivacyRow], units: Sequence[str]) -> BudgetLine:
    deltas = {row.delta for row in rows if row.delta}
    return BudgetLine(
        mechanism,
        site,
        tuple(_budget_cell([row for row in rows if row.unit == unit]) for unit in units),
        f"{max(deltas):g}" if deltas else "0",
        tuple(dict.fromkeys(row.note for row in rows if row.note)),
    )


def _budget_cell(rows: Sequence[PrivacyRow]) -> tuple[str, str]:
    if not rows:
        return "–", "–"
    nominal = max((row.nominal for row in rows if row.nominal is not None), default=None)
    unbounded = any(row.epsilon is None for row in rows)
    guaranteed = None if unbounded else max(row.epsilon for row in rows if row.epsilon is not None)
    return wording.epsilon(nominal, missing="–"), wording.epsilon(guaranteed, missing="none")
