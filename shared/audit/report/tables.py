"""Content of the tables of a report's pages, grouped and ordered, so that a template only places it; and the rows and
sentences about privacy loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import PrivacyRow
from moretta.shared.audit.result import INFERENCES, Result, of_emotion, of_fewest_clips, strongest, strongest_of_each
from moretta.shared.privacy.site_updates import plan_site_level
from moretta.shared.study.schema import Study

Content = dict[str, Any]  # what a template places, by the name that it has there
METRICS_PER_TABLE = 5  # so many fit next to the attacker's name on a laptop
TITLES = {
    "attribute": "Sex and age group",
    "inversion": "Undoing the anonymization",
    "cross-modal": "Linking a voice to a face",
    "membership": "Membership of the training data",
    "updates": "Leaks of training updates",
}
MEANINGS = {
    "attribute": "Can somebody infer the sex or the age group of an unknown person from what was released?",
    "inversion": (
        "Can what was released be turned back into recordings that a recogniser knows the person by? The decoder "
        "learns from other people's recordings, before and after anonymization."
    ),
    "cross-modal": "Can a released voice be matched with the released face of the same person?",
    "membership": "Can somebody who has the trained emotion model find out whose clips it was trained on?",
    "updates": "Can the server infer whose data a site holds from the update that the site sent in the last round?",
}
SOURCES = {
    "unprotected": "unprotected clips (anchor)",
    "ignorant": "released clips",
    "semi-informed": "released clips",
    "decoded": "decoded clips",
    "model": "the trained model",
    "updates": "sites' updates",
}
UNITS = ("value", "frame", "clip", "speaker", "site")
"""Units, smallest first; from `clip` on they stand for people or their recordings."""
MECHANISM = "site-level noise"
PSEUDONYM = re.compile(r"[0-9a-f]{16}")
_SECONDARY = frozenset({"explained_variance", "tpr_at_fpr_1pct", "tpr_at_fpr_01pct"})
"""Metrics that accompany a main one."""
_AUDIENCES = {
    "central": "whoever has the models; the server sees every update without noise",
    "distributed": "whoever has the models, and every site that takes part",
}


def identity_parts(results: Sequence[Result]) -> list[Content]:
    """Re-identification by modality, in order of first appearance: the heat map, tables of all metrics by scenario, the
    people by risk, and one result of each attacker that did not run. Results of other subsets are in the JSON.
    """
    parts = []
    for modality in dict.fromkeys(r.modality for r in results):
        mine = [r for r in results if r.modality == modality]
        present = [r for r in mine if r.value is not None or r.clips]
        absent = {(r.attacker, r.reason): r for r in mine if r.value is None and not r.clips}
        whole = of_fewest_clips(present)
        part = {
            "modality": modality,
            "heat": _heat_map([r for r in whole if r.pooled == 1]),
            "tables": _scenario_tables(whole),
        }
        parts.append({**part, "people": people_by_risk(present), "absent": list(absent.values())})
    return parts


def _heat_map(results: Sequence[Result]) -> Content:
    """Top-1 and EER of every attacker in every scenario, with a shade of 0 to 5 between chance and certainty."""
    shown = {(r.attacker, r.scenario, r.metric): r for r in results if r.metric in ("top1", "eer")}
    scenarios = sorted({scenario for _, scenario, _ in shown}, key=wording.scenario_order)
    lines: dict[str, list[Content | None]] = {}
    for attacker in dict.fromkeys(attacker for attacker, _, _ in shown):
        cells = lines.setdefault(attacker, [])
        for scenario in scenarios:
            pair = [shown.get((attacker, scenario, metric)) for metric in ("top1", "eer")]
            there = [r for r in pair if r is not None]
            invalid = any(r.invalid for r in there)
            leaked = max((_leaked(r) for r in there if not r.invalid), default=0.0)
            values = [None if r is None else r.value for r in pair]
            cell = {"top1": values[0], "eer": values[1], "invalid": invalid, "shade": math.ceil(5 * leaked - 0.25)}
            cells.append(cell if there else None)
    chance = max((r.chance for r in shown.values() if r.metric == "top1" and r.chance), default=None)
    return {"scenarios": scenarios, "lines": lines, "chance": chance}


def _leaked(r: Result) -> float:
    """Where a figure lies between chance, 0, and certainty, 1."""
    if r.value is None or not r.chance:
        return 0.0
    certain = 0.0 if r.metric == "eer" else 1.0
    return min(1.0, max(0.0, (r.value - r.chance) / (certain - r.chance)))


def people_by_risk(results: Sequence[Result]) -> Content | None:
    """How the strongest attacker by top-1 does on each person, worst-off first, and by group; None without figures.

    For each number of clips known to be of one person, the strongest attacker of so many.
    """
    best = strongest(r for r in results if r.metric == "top1" and r.is_whole and not r.is_anchor)
    pooled = [r for r in results if r.metric == "top1" and r.pooled > 1 and r.subset == "all" and not r.is_anchor]
    text = "No attacker of single clips has a figure that counts."
    if best is not None:
        text = f"The strongest attacker is {best.attacker} ({best.scenario})."
    elif (best := strongest(pooled)) is None:
        return None
    mine = [r for r in results if (r.attacker, r.scenario, r.metric) == (best.attacker, best.scenario, "top1")]
    mine = [r for r in mine if r.value is not None and r.subset != "worst"]
    single = [r for r in mine if r.pooled == 1 and r.subset != "all"]
    shares = sorted((r.value or 0.0 for r in single if PSEUDONYM.fullmatch(r.subset)), reverse=True)
    groups = [(r.subset, r) for r in single if not PSEUDONYM.fullmatch(r.subset)]
    for count in sorted({r.pooled for r in pooled}):
        if (found := strongest(r for r in pooled if r.pooled == count)) is not None:
            groups.append((f"{count} clips of a person, by {found.attacker} ({found.scenario})", found))
    if not shares and not groups:
        return None
    half = sum(share >= 0.5 for share in shares)
    if shares:
        text += (
            f" It re-identifies {half} of {len(shares)} people from at least half of their clips. The worst-off person "
            f"is re-identified from {wording.percent(shares[0])} of their clips, the least affected from "
            f"{wording.percent(shares[-1])}."
        )
    return {"sentence": text, "shares": shares, "best": best, "groups": groups}


def _scenario_tables(results: Sequence[Result]) -> list[Content]:
    known = ["top1", "eer", *wording.METRICS]
    tables = []
    for scenario in sorted({r.scenario for r in results}, key=wording.scenario_order):
        mine = {(r.attacker, r.metric): r for r in results if r.scenario == scenario}
        names = sorted({m for _, m in mine}, key=lambda m: (known.index(m) if m in known else len(known), m))
        for start in range(0, len(names), METRICS_PER_TABLE):
            metrics, lines = names[start : start + METRICS_PER_TABLE], []
            for attacker in dict.fromkeys(attacker for attacker, metric in mine if metric in metrics):
                cells = [mine.get((attacker, metric)) for metric in metrics]
                there = [r for r in cells if r is not None]
                why = "; ".join(dict.fromkeys(r.reason for r in there if r.invalid and r.reason))
                note = "; ".join(dict.fromkeys(r.note for r in there if r.note))
                lines.append({"cells": cells, "results": there, "reason": why, "note": note})
            meaning = wording.SCENARIOS.get(scenario, "") if start == 0 else ""
            tables.append({"scenario": scenario, "meaning": meaning, "metrics": metrics, "lines": lines})
    return tables


def evaluator_lines(results: Sequence[Result]) -> list[tuple[Result, tuple[Result | None, ...]]]:
    """Of each utility evaluator its first result, and its results on originals, on releases, and trained on originals
    but tested on releases. A pretrained evaluator has no third one.
    """
    lines, results = [], of_emotion(results)
    for name in dict.fromkeys(r.attacker for r in results):
        mine = [r for r in results if r.attacker == name]
        found = {r.scenario: r for r in mine if r.value is not None}
        released = ("ignorant", "") if mine[0].kind == "pretrained" else ("semi-informed", "ignorant")
        lines.append((mine[0], tuple(found.get(scenario) for scenario in ("unprotected", *released))))
    return lines


def content_lines(results: Sequence[Result]) -> list[tuple[Result, Result | None, Result]]:
    """For each figure beyond emotion its first result, the one on originals, and the one on releases."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for r in results:
        if r.target != "emotion":
            groups.setdefault((r.attacker, r.target, r.metric), []).append(r)
    anchors = {key: next((r for r in own if r.is_anchor), None) for key, own in groups.items()}
    return [(own[0], anchors[key], next((r for r in own if not r.is_anchor), own[0])) for key, own in groups.items()]


def inference_tables(results: Sequence[Result]) -> list[Content]:
    """Attacks beyond identity, in a fixed order, each on all modalities."""
    tables = []
    for attack in INFERENCES:
        if mine := [r for r in results if r.attack == attack]:
            labels = map(wording.metric_label, dict.fromkeys(r.metric for r in mine if r.value is not None))
            notes = dict.fromkeys(f"{wording.modality_label(r.modality)}: {r.note}" for r in mine if r.note)
            table = {"attack": attack, "verdicts": _verdicts(mine), "results": mine, "notes": list(notes)}
            tables.append({**table, "metrics": [label for label in labels if label.meaning]})
    return tables


def inference_sentence(results: Sequence[Result]) -> str | None:
    """Sentence of the summary on leaks beyond identity; None if nothing was attacked."""
    if not results:
        return None
    best = [r for r in strongest_of_each(results) if r.metric not in _SECONDARY]
    if leaking := [f"{_name(r)} {_figure(r)} (chance {_chance(r)})" for r in best if r.leaks]:
        return f"Beyond identity, by the strongest attacker: {'; '.join(leaking)}."
    if not best:
        return "Beyond identity: every attack is invalid, so nothing is known. This is not evidence of privacy."
    kinds = wording.format_count(len(best), "kind")
    return f"Beyond identity: none of {kinds} of attack was clearly above chance."


def _verdicts(results: Sequence[Result]) -> tuple[str, ...]:
    """One sentence for each modality and target, of the strongest attacker; invalid ones by their reason."""
    sentences = []
    best = [r for r in strongest_of_each(results) if r.metric not in _SECONDARY]
    for r in best:
        verdict = "Leaks" if r.leaks else "Not distinguishable from guessing with so few people"
        sentences.append(f"{_name(r)}: {_figure(r)} by {r.attacker}, chance {_chance(r)}. {verdict}.")
    counted = {(r.modality, r.target) for r in best}
    for r in results:
        if r.invalid and not r.is_anchor and (r.modality, r.target) not in counted:
            counted.add((r.modality, r.target))
            where = f"{wording.modality_label(r.modality)}, {r.target}"
            sentences.append(f"{where}: {wording.INVALID}, no evidence of privacy: {r.reason}.")
    return tuple(sentences)


def _name(r: Result) -> str:
    return f"{wording.modality_label(r.modality)}, {r.target}, {wording.metric_label(r.metric).label}"


def _figure(r: Result) -> str:
    return f"{wording.figure(r.value, r.metric)} {wording.interval(r.low, r.high, r.metric)}".strip()


def _chance(r: Result) -> str:
    return wording.figure(r.chance, r.metric)


def site_level_rows(study: Study, site: str, rounds: int) -> list[PrivacyRow]:
    """Guarantees for a site whose update was aggregated in so many rounds, over all models together."""
    plan, wanted = plan_site_level(study), study.aggregation
    if plan is None or rounds == 0:
        return []
    who = _AUDIENCES[wanted.dp] + (", and the server, which sees the sum alone" if wanted.secure else "")
    whole = PrivacyRow(
        site=site,
        mechanism=f"{MECHANISM} ({wanted.dp})",
        unit="site",
        epsilon=plan.loss(rounds).epsilon(wanted.delta),
        delta=wanted.delta,
        nominal=wanted.epsilon,
        note=f"for {who}; {rounds} rounds of all models together",
    )
    if wanted.dp != "distributed" or wanted.secure:
        return [whole]
    share = {
        "mechanism": f"{MECHANISM} (its own share)",
        "epsilon": plan.loss_of_share(rounds).epsilon(wanted.delta),
        "nominal": None,
        "note": "for the server, which sees each update by itself",
    }
    return [whole, whole.model_copy(update=share)]


def budget_tables(rows: Sequence[PrivacyRow]) -> Content:
    """Tables of the final privacy loss, nominal beside composed: by mechanism the worst site, and all sites."""
    final = latest(rows)
    units = [unit for unit in UNITS if any(row.unit == unit for row in final)]
    worst, sites = [], []
    for mechanism in dict.fromkeys(row.mechanism for row in final):
        mine = [row for row in final if row.mechanism == mechanism]
        names = list(dict.fromkeys(row.site for row in mine))
        worst.append(_budget_line("all" if len(names) != 1 else names[0], mine, units))
        sites += [_budget_line(site, [row for row in mine if row.site == site], units) for site in names]
    return {"units": units, "worst": worst, "sites": sites}


def trained_epsilon(rows: Sequence[PrivacyRow]) -> dict[str, str]:
    """Final epsilon of DP-SGD at each site, with the unit that it counts rounds for."""
    spent = [row for row in latest(rows) if row.round is not None and row.epsilon is not None]
    return {row.site: f"{wording.epsilon(row.epsilon)} per {row.unit}" for row in sorted(spent, key=_epsilon)}


def latest(rows: Sequence[PrivacyRow]) -> list[PrivacyRow]:
    """The last row of each site, mechanism and unit: what is spent in the end."""
    kept: dict[tuple[str, str, str], PrivacyRow] = {}
    for row in rows:
        before = kept.setdefault((row.site, row.mechanism, row.unit), row)
        if before.round is not None and (row.round is None or row.round >= before.round):
            kept[row.site, row.mechanism, row.unit] = row
    return list(kept.values())


def _budget_line(site: str, rows: Sequence[PrivacyRow], units: Sequence[str]) -> Content:
    """Its cells are (claimed by the mechanism's parameters, guaranteed) for each unit."""
    cells = []
    for unit in units:
        mine = [row for row in rows if row.unit == unit]
        guaranteed = wording.epsilon(max(mine, key=_epsilon).epsilon, missing="none") if mine else "–"
        cells.append((wording.epsilon(_worst_nominal(mine), missing="–"), guaranteed))
    delta, notes = f"{max(row.delta for row in rows):g}", list(dict.fromkeys(row.note for row in rows if row.note))
    return {"mechanism": rows[0].mechanism, "site": site, "cells": cells, "delta": delta, "notes": notes}


def _epsilon(row: PrivacyRow) -> float:
    """Epsilon of a row, for sorting: no finite guarantee counts as the largest."""
    return math.inf if row.epsilon is None else row.epsilon


def _worst_nominal(rows: Sequence[PrivacyRow]) -> float | None:
    return max((row.nominal for row in rows if row.nominal is not None), default=None)
