"""The tables of a report's pages: results grouped and ordered, so that a template only places them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from moretta.shared.audit.report import wording
from moretta.shared.audit.result import INFERENCES, Result, strongest_of_each

METRICS_PER_TABLE = 5
"""So many fit next to the attacker's name on a laptop."""
TITLES: dict[str, str] = {
    "attribute": "Sex and age group",
    "inversion": "Undoing the anonymization",
    "cross-modal": "Linking a voice to a face",
    "membership": "Membership of the training data",
    "updates": "What training updates reveal",
}
MEANINGS: dict[str, str] = {
    "attribute": "Can somebody infer the sex or the age group of an unknown person from what was released?",
    "inversion": (
        "Can what was released be turned back into recordings that a recogniser knows the person by? The decoder "
        "learns from other people's recordings, before and after anonymization."
    ),
    "cross-modal": "Can a released voice be matched with the released face of the same person?",
    "membership": "Can somebody who has the trained emotion model find out whose clips it was trained on?",
    "updates": "Can the server infer whose data a site holds from the update that the site sent in the last round?",
}
SOURCES: dict[str, str] = {
    "unprotected": "unprotected clips (anchor)",
    "ignorant": "released clips",
    "semi-informed": "released clips",
    "decoded": "decoded clips",
    "model": "the trained model",
    "updates": "sites' updates",
}


_SECONDARY = frozenset({"explained_variance", "tpr_at_fpr_1pct", "tpr_at_fpr_01pct"})
"""Metrics that accompany a main one."""


class AttackerLine(NamedTuple):
    """One attacker in one scenario."""

    cells: tuple[Result | None, ...]
    """Its result by each metric of the table; None where it has none."""

    @property
    def results(self) -> list[Result]:
        """The results that there are, at least one."""
        return [result for result in self.cells if result is not None]

    @property
    def reason(self) -> str:
        """Why results are invalid."""
        return "; ".join(dict.fromkeys(r.reason for r in self.results if r.invalid and r.reason))


class ScenarioTable(NamedTuple):
    """All attackers of one modality and scenario."""

    scenario: str
    meaning: str
    metrics: tuple[str, ...]
    lines: tuple[AttackerLine, ...]


class IdentityPart(NamedTuple):
    """Re-identification from one modality."""

    modality: str
    tables: tuple[ScenarioTable, ...]
    breakdown: tuple[Result, ...]
    """By subset and with several clips pooled."""
    one_speaker: int
    """How many results are of single speakers: too many for a page, all in the JSON."""
    absent: tuple[Result, ...]
    """One result of each attacker that did not run."""


class InferenceTable(NamedTuple):
    """One attack beyond identity, on all modalities."""

    attack: str
    verdicts: tuple[str, ...]
    metrics: tuple[wording.MetricLabel, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...]


def identity_parts(results: Sequence[Result]) -> list[IdentityPart]:
    """Results on identity by modality, in order of first appearance."""
    parts = []
    for modality in dict.fromkeys(r.modality for r in results):
        present = [r for r in results if r.modality == modality and (r.value is not None or r.clips)]
        absent = [r for r in results if r.modality == modality and r.value is None and not r.clips]
        single = [r for r in present if re.fullmatch(r"[0-9a-f]{16}", r.subset)]
        whole = [r for r in present if r.subset == "all" and r.pooled == 1]
        breakdown = [r for r in present if (r.subset != "all" or r.pooled != 1) and r not in single]
        once = {(r.attacker, r.reason): r for r in absent}
        tables = _scenario_tables(whole)
        parts.append(IdentityPart(modality, tables, tuple(breakdown), len(single), tuple(once.values())))
    return parts


def _scenario_tables(results: Sequence[Result]) -> tuple[ScenarioTable, ...]:
    known = ["top1", "eer", *wording.METRICS]
    tables = []
    for scenario in sorted({r.scenario for r in results}, key=wording.scenario_order):
        mine = [r for r in results if r.scenario == scenario]
        names = sorted({r.metric for r in mine}, key=lambda m: (known.index(m) if m in known else len(known), m))
        for start in range(0, len(names), METRICS_PER_TABLE):
            metrics = tuple(names[start : start + METRICS_PER_TABLE])
            found = {(r.attacker, r.metric): r for r in mine if r.metric in metrics}
            attackers = dict.fromkeys(attacker for attacker, _ in found)
            lines = (AttackerLine(tuple(found.get((a, metric)) for metric in metrics)) for a in attackers)
            meaning = wording.SCENARIOS.get(scenario, "") if start == 0 else ""
            tables.append(ScenarioTable(scenario, meaning, metrics, tuple(lines)))
    return tuple(tables)


def evaluator_lines(results: Sequence[Result]) -> list[tuple[Result, tuple[Result | None, ...]]]:
    """Of each utility evaluator its first result, and its results on originals, on releases, and trained on originals
    but tested on releases. A pretrained evaluator has no third one.
    """
    lines = []
    for name in dict.fromkeys(r.attacker for r in results):
        mine = [r for r in results if r.attacker == name]
        found = {r.scenario: r for r in mine if r.value is not None}
        released = ("ignorant", "") if mine[0].kind == "pretrained" else ("semi-informed", "ignorant")
        scenarios = ("unprotected", *released)
        lines.append((mine[0], tuple(found.get(scenario) for scenario in scenarios)))
    return lines


def inference_tables(results: Sequence[Result]) -> list[InferenceTable]:
    """Attacks beyond identity, in a fixed order."""
    tables = []
    for attack in INFERENCES:
        mine = [r for r in results if r.attack == attack]
        labels = [wording.metric_label(name) for name in dict.fromkeys(r.metric for r in mine if r.value is not None)]
        notes = dict.fromkeys(f"{wording.modality_label(r.modality)}: {r.note}" for r in mine if r.note)
        meant = tuple(label for label in labels if label.meaning)
        if mine:
            tables.append(InferenceTable(attack, _verdicts(mine), meant, tuple(mine), tuple(notes)))
    return tables


def inference_sentence(results: Sequence[Result]) -> str | None:
    """What leaks beyond identity, for the summary; None if nothing was attacked."""
    if not results:
        return None
    strongest = [r for r in strongest_of_each(results) if r.metric not in _SECONDARY]
    if leaking := [f"{_name(r)} {_figure(r)} (chance {_chance(r)})" for r in strongest if r.leaks]:
        return f"Beyond identity, by the strongest attacker: {'; '.join(leaking)}."
    if not strongest:
        return "Beyond identity: every attack is invalid, so nothing is known. This is not evidence of privacy."
    kinds = wording.format_count(len(strongest), "kind")
    return f"Beyond identity: none of {kinds} of attack was clearly above chance."


def _verdicts(results: Sequence[Result]) -> tuple[str, ...]:
    """One sentence for each modality and target, of the strongest attacker; invalid ones by their reason."""
    sentences = []
    strongest = [r for r in strongest_of_each(results) if r.metric not in _SECONDARY]
    for r in strongest:
        verdict = "Leaks" if r.leaks else "Not distinguishable from guessing with so few people"
        sentences.append(f"{_name(r)}: {_figure(r)} by {r.attacker}, chance {_chance(r)}. {verdict}.")
    counted = {(r.modality, r.target) for r in strongest}
    for r in results:
        if r.invalid and not r.is_anchor and (r.modality, r.target) not in counted:
            counted.add((r.modality, r.target))
            where = f"{wording.modality_label(r.modality)}, {r.target}"
            sentences.append(f"{where}: invalid, no evidence of privacy: {r.reason}.")
    return tuple(sentences)


def _name(r: Result) -> str:
    return f"{wording.modality_label(r.modality)}, {r.target}, {wording.metric_label(r.metric).label}"


def _figure(r: Result) -> str:
    return f"{wording.figure(r.value, r.metric)} {wording.interval(r.low, r.high, r.metric)}".strip()


def _chance(r: Result) -> str:
    return wording.figure(r.chance, r.metric)
