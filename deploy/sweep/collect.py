"""From finished work to the rows of a sweep: folds pooled, seeds averaged, intervals over speakers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.deploy.sweep.done import CellAudit, Released, ResultFolder, Spent, Trained
from moretta.deploy.sweep.jobs import PlannedCell, SweepPlan
from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.report_schema import Headline, PrivacyRow
from moretta.shared.audit.report.sweep_rows import SweepRow, with_fronts
from moretta.shared.audit.result import strongest
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality

UNITS = ("value", "frame", "clip", "speaker", "site")
"""Smallest first."""
Values = dict[str, Any]


def collect(plan: SweepPlan, shelf: ResultFolder, failures: Mapping[str, str]) -> tuple[SweepRow, ...]:
    """All rows, in the order of the grid.

    Args:
        plan: what was to be done.
        shelf: what was.
        failures: by the key of a job, why it has no result.
    """
    groups: dict[tuple[Any, ...], list[PlannedCell]] = {}
    for planned in plan.cells:
        key = (str(planned.corpus.root), planned.cell.curve, planned.cell.settings)
        groups.setdefault(key, []).append(planned)
    rows = [row for cells in groups.values() for row in _rows(cells, shelf, failures)]
    return with_fronts(rows)


def _rows(cells: Sequence[PlannedCell], shelf: ResultFolder, failures: Mapping[str, str]) -> list[SweepRow]:
    first = cells[0]
    jobs = [j for c in cells for j in (c.release, *([c.audit] if c.audit else []), *c.training)]
    why = "; ".join(dict.fromkeys(failures[job.key] for job in jobs if job.key in failures))
    return [
        SweepRow(
            curve=first.cell.curve,
            corpus=first.corpus.name,
            modality=modality,
            settings=dict(first.cell.settings),
            seeds=tuple(dict.fromkeys(c.study.seed for c in cells)),
            failed=why,
            **_figures(cells, modality, shelf),
        )
        for modality in first.study.modalities
    ]


def _figures(cells: Sequence[PlannedCell], modality: Modality, shelf: ResultFolder) -> Values:
    """Whatever all seeds and folds have: of a part the mean would be another figure."""
    private = cells[0].study.privacy
    releases = [shelf.get(c.release, Released) for c in cells]
    audits = [shelf.get(c.audit, CellAudit) for c in cells if c.audit]
    trained = [[shelf.get(job, Trained) for job in c.training] for c in cells]
    found: Values = {
        "delta": private.delta,
        "model_nominal": private.epsilon if private.dp_sgd else None,
        "model_nominal_unit": private.unit if private.dp_sgd else "",
        **_nominal((row for each in releases if each for row in each.privacy), modality),
    }
    if None not in audits:
        found |= _attacked([each for each in audits if each], modality)
    if not any(None in folds for folds in trained):
        found |= _trained([[each for each in folds if each] for folds in trained], modality, seed=cells[0].study.seed)
    return found


def _trained(trained: Sequence[Sequence[Trained]], modality: Modality, *, seed: int) -> Values:
    return {
        "folds": len(trained[0]),
        **_emotion(trained, modality, seed=seed),
        **_spent("release", [t.releases for folds in trained for t in folds]),
        **_spent("model", [t.models for folds in trained for t in folds]),
        "model_site": _of_sites(row for folds in trained for t in folds for row in t.privacy),
    }


def _emotion(trained: Sequence[Sequence[Trained]], modality: str, *, seed: int) -> Values:
    """UAR over the clips of all tested folds; the mean over seeds, with speakers drawn once for all of them."""
    found = [[t for t in folds if modality in t.counts] for folds in trained]
    if not all(found):
        return {}
    by_seed = [_by_speaker(folds, modality) for folds in found]
    numbers = sorted({number for tables in by_seed for number in tables}, key=_order(found[0]))
    size = next(iter(by_seed[0].values())).shape
    nothing = np.zeros(size, np.int64)
    counts = np.stack([[tables.get(n, nothing) for tables in by_seed] for n in numbers])  # [speakers, seeds, c, c]

    def mean_uar(drawn: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(confusion.uar(drawn).mean(axis=-1), np.float64)

    whole = counts.sum(axis=0)  # [seeds, c, c]
    low, high = confusion.bootstrap(counts, mean_uar, seed=derive(seed, "emotion intervals")) or (None, None)
    return {
        "uar": float(mean_uar(whole)),
        "uar_low": low,
        "uar_high": high,
        "uar_chance": 1 / int((whole[0].sum(axis=1) > 0).sum()),
        "test_speakers": len(numbers),
        "test_clips": int(whole[0].sum()),
    }


def _by_speaker(folds: Sequence[Trained], modality: str) -> dict[int, npt.NDArray[np.int64]]:
    return {
        fold.numbers[pseudonym]: np.array(table, np.int64)
        for fold in folds
        for pseudonym, table in fold.counts[modality].items()
    }


def _order(folds: Sequence[Trained]) -> Any:
    """By the first seed's pseudonyms, as a single run draws its intervals; unknown ones last."""
    names = {number: name for fold in folds for name, number in fold.numbers.items()}
    return lambda number: (number not in names, names.get(number, ""), number)


def _best_utility(audits: Sequence[CellAudit], modality: str) -> Values:
    """The utility evaluator that reads most off releases, trained on releases or used as it is."""
    best = []
    for found in audits:
        trained = [r for r in found.utility if r.modality == modality and r.scenario == "semi-informed"]
        used_as_it_is = [r for r in found.utility if r.modality == modality and r.kind == "pretrained"]
        top = strongest(r for r in trained + used_as_it_is if not r.is_anchor)
        if top is None:
            return {}
        best.append(top)
    if not best:
        return {}
    return {
        "evaluator": _names(row.attacker for row in best),
        "evaluator_uar": _mean(row.value for row in best),
        "evaluator_low": _outer(min, [row.low for row in best]),
        "evaluator_high": _outer(max, [row.high for row in best]),
    }


def _attacked(audits: Sequence[CellAudit], modality: str) -> Values:
    """The strongest attacker's and the best judge's figures: the mean over seeds, in the widest of their intervals."""
    parts: list[Headline] = [p for found in audits for p in headlines(found.rows, None) if p.modality == modality]
    why = dict.fromkeys(found.not_run[modality] for found in audits if modality in found.not_run)
    values: Values = {"note": "; ".join(why), **_best_utility(audits, modality)}
    for metric in ("top1", "eer"):
        figures = [figure for part in parts for figure in part.figures if figure.metric == metric]
        if not figures or len(figures) != len(audits):
            continue  # of one seed's release nothing is known: neither is of the mean
        values |= {
            metric: _mean(f.value for f in figures),
            f"{metric}_low": _outer(min, [f.low for f in figures]),
            f"{metric}_high": _outer(max, [f.high for f in figures]),
            f"{metric}_chance": _mean(f.chance for f in figures),
            f"{metric}_unprotected": _mean(f.unprotected for f in figures),
            f"{metric}_by": _names(f"{f.attacker} ({f.scenario})" for f in figures),
        }
    return values


def _nominal(rows: Iterable[PrivacyRow], modality: str) -> Values:
    """What the release's own parameters claim for the smallest unit; of equal claims that for the largest unit."""
    claims = [r for r in rows if r.mechanism.startswith(f"{modality} release") and r.nominal is not None]
    if not claims:
        return {}
    smallest = min(claims, key=lambda row: UNITS.index(row.unit))
    meant = max((r for r in claims if r.nominal == smallest.nominal), key=lambda row: UNITS.index(row.unit))
    return {"release_nominal": meant.nominal, "release_nominal_unit": meant.unit}


def _spent(what: str, spent: Sequence[Spent]) -> Values:
    """The worst fold and seed."""
    return {f"{what}_{unit}": _outer(max, [getattr(s, unit) for s in spent]) for unit in ("clip", "speaker")}


def _of_sites(rows: Iterable[PrivacyRow]) -> float | None:
    """What site-level privacy of the aggregate has spent in the end, at the worst site."""
    return max((row.epsilon for row in rows if row.unit == "site" and row.epsilon is not None), default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if not known or None in known else float(np.mean([v for v in known if v is not None]))


def _outer(choose: Any, values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else float(choose(values))


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
