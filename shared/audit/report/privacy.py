"""Rows of the privacy table: those about whole sites, and the tables and sentences that all rows make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import PrivacyRow
from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.schema import Study

UNITS = ("value", "frame", "clip", "speaker", "site")
"""Smallest first."""
_UNITS_OF_PEOPLE = UNITS[2:]
"""Units that stand for people or their recordings."""
MECHANISM = "site-level noise"
_WHO = {
    "central": "whoever has the models; the server sees every update without noise",
    "distributed": "whoever has the models, and every site that takes part",
}


def site_level_rows(study: Study, site: str, rounds: int) -> list[PrivacyRow]:
    """What the aggregated models reveal about a site, by the rounds in which its update was aggregated.

    Args:
        study: says which noise.
        site: its name.
        rounds: of all models together; the others' rounds cost it nothing.
    """
    plan, wanted = plan_site_level(study), study.aggregation
    if plan is None or rounds == 0:
        return []
    who = _WHO[wanted.dp] + (", and the server, which sees the sum alone" if wanted.secure else "")
    rows = [
        PrivacyRow(
            site=site,
            mechanism=f"{MECHANISM} ({wanted.dp})",
            unit="site",
            epsilon=plan.loss(rounds).epsilon(wanted.delta),
            delta=wanted.delta,
            nominal=wanted.epsilon,
            note=f"for {who}; {rounds} rounds of all models together",
        )
    ]
    if wanted.dp == "distributed" and not wanted.secure:
        rows.append(
            PrivacyRow(
                site=site,
                mechanism=f"{MECHANISM} (its own share)",
                unit="site",
                epsilon=plan.loss_of_share(rounds).epsilon(wanted.delta),
                delta=wanted.delta,
                note="for the server, which sees each update by itself",
            )
        )
    return rows


def latest(rows: Sequence[PrivacyRow]) -> tuple[PrivacyRow, ...]:
    """The last row of each site, mechanism and unit: what is spent in the end."""
    kept: dict[tuple[str, str, str], PrivacyRow] = {}
    for row in rows:
        key = (row.site, row.mechanism, row.unit)
        before = kept.get(key)
        if before is None or (before.round is not None and (row.round is None or row.round >= before.round)):
            kept[key] = row
    return tuple(kept.values())


class BudgetLine(NamedTuple):
    """One mechanism at one site, or the worst of all sites."""

    mechanism: str
    site: str
    cells: tuple[tuple[str, str], ...]
    """(claimed by its parameters, guaranteed) for each unit."""
    delta: str
    notes: tuple[str, ...]


class BudgetTables(NamedTuple):
    """Nominal and composed figures side by side."""

    units: tuple[str, ...]
    worst: tuple[BudgetLine, ...]
    """Of each mechanism, the worst of all sites."""
    sites: tuple[BudgetLine, ...]


def budget_tables(rows: Sequence[PrivacyRow]) -> BudgetTables:
    """The tables of what was spent in the end."""
    final = latest(rows)
    units = tuple(unit for unit in UNITS if any(row.unit == unit for row in final))
    worst, sites = [], []
    for mechanism in dict.fromkeys(row.mechanism for row in final):
        mine = [row for row in final if row.mechanism == mechanism]
        names = tuple(dict.fromkeys(row.site for row in mine))
        worst.append(_budget_line("all" if len(names) != 1 else names[0], mine, units))
        sites += [_budget_line(site, [row for row in mine if row.site == site], units) for site in names]
    return BudgetTables(units, tuple(worst), tuple(sites))


def _budget_line(site: str, rows: Sequence[PrivacyRow], units: Sequence[str]) -> BudgetLine:
    cells = []
    for unit in units:
        mine = [row for row in rows if row.unit == unit]
        guaranteed = "–" if not mine else wording.epsilon(_worst_guaranteed(mine), missing="none")
        cells.append((wording.epsilon(_worst_nominal(mine), missing="–"), guaranteed))
    delta = max((row.delta for row in rows), default=0.0)
    notes = tuple(dict.fromkeys(row.note for row in rows if row.note))
    return BudgetLine(rows[0].mechanism, site, tuple(cells), f"{delta:g}", notes)


def _worst_guaranteed(rows: Sequence[PrivacyRow]) -> float | None:
    """None if one of them has no finite guarantee."""
    return None if any(row.epsilon is None for row in rows) else max(row.epsilon or 0.0 for row in rows)


def privacy_sentences(rows: Sequence[PrivacyRow]) -> list[str]:
    """What each mechanism has cost in the end, at the worst site."""
    sentences = []
    for mechanism in dict.fromkeys(row.mechanism for row in rows):
        mine = [row for row in latest(rows) if row.mechanism == mechanism]
        claimed = _worst_nominal([row for row in mine if row.unit == "value"])
        parts = [f"{wording.epsilon(claimed)} per value"] if claimed else []
        for unit in _UNITS_OF_PEOPLE:
            of_unit = [row for row in mine if row.unit == unit]
            if of_unit:
                parts.append(f"{_guaranteed(of_unit)} per {unit}")
        if parts:
            nominal = "nominal " if claimed else ""
            sentences.append(f"Privacy loss of {mechanism} (epsilon, worst site): {nominal}{'; '.join(parts)}.")
    return sentences


def _worst_nominal(rows: Sequence[PrivacyRow]) -> float | None:
    return max((row.nominal for row in rows if row.nominal is not None), default=None)


def _guaranteed(rows: Sequence[PrivacyRow]) -> str:
    if any(row.epsilon is None for row in rows):
        claimed = _worst_nominal(rows)
        claim = f" ({wording.epsilon(claimed)} composed, if its assumptions held)" if claimed is not None else ""
        return f"{wording.NO_GUARANTEE}{claim}"
    worst = max(rows, key=lambda row: row.epsilon or 0.0)
    delta = f" at delta {worst.delta:g}" if worst.delta else ""
    return f"{wording.epsilon(worst.epsilon)} composed{delta}"
