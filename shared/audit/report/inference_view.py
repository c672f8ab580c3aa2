"""The section on attacks beyond identity: one table an attack, and in one sentence what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Result
from moretta.shared.audit.result import INFERENCES, strongest_of_each

TITLES: dict[str, str] = {
    "attribute": "Sex and age group",
    "inversion": "Undoing the anonymization",
    "cross-modal": "Linking a voice to a face",
    "membership": "Who was trained on",
    "updates": "What training updates tell",
}
MEANINGS: dict[str, str] = {
    "attribute": "Can somebody tell the sex or the age group of a person they never met from what was released?",
    "inversion": (
        "Can what was released be turned back into recordings that a recogniser knows the person by? The decoder "
        "learns from other people's recordings, before and after anonymization."
    ),
    "cross-modal": "Can a released voice be matched with the released face of the same person?",
    "membership": "Can somebody who has the trained emotion model tell whose clips it was trained on?",
    "updates": "Can the server tell whose data a site holds from the update that the site sent in the last round?",
}
SCENARIOS_OF_INFERENCE: dict[str, str] = {
    "unprotected": "unprotected clips (anchor)",
    "ignorant": "released clips",
    "semi-informed": "released clips",
    "decoded": "decoded clips",
    "model": "the trained model",
    "updates": "sites' updates",
}


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One figure."""

    target: str
    attacker: str
    source: str
    metric: str
    value: str
    interval: str
    chance: str
    extent: str
    invalid: bool
    leaks: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AttackTable:
    """One attack on all modalities."""

    attack: str
    title: str
    meaning: str
    verdicts: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]
    """Label and meaning of the metrics in it."""
    lines: tuple[FindingLine, ...]
    notes: tuple[str, ...]


def inference_view(findings: Sequence[Result]) -> tuple[AttackTable, ...]:
    """The tables, in a fixed order of attacks."""
    return tuple(
        _table(attack, [f for f in findings if f.attack == attack])
        for attack in INFERENCES
        if any(f.attack == attack for f in findings)
    )


def inference_sentence(findings: Sequence[Result]) -> str | None:
    """What leaks beyond identity, for the summary; None if nothing was attacked."""
    if not findings:
        return None
    strongest = [f for f in strongest_of_each(findings) if f.metric not in _SECONDARY]
    leaking = [f"{_name(f)} {_figure(f)} (chance {_chance(f)})" for f in strongest if f.leaks]
    if leaking:
        return f"Beyond identity, by the strongest attacker: {'; '.join(leaking)}."
    if not strongest:
        return "Beyond identity: every attack is invalid, so nothing is known. This is not evidence of privacy."
    return (
        f"Beyond identity: none of {wording.format_count(len(strongest), 'kind')} of attack was clearly above chance."
    )


_SECONDARY = frozenset({"explained_variance", "tpr_at_fpr_1pct", "tpr_at_fpr_01pct"})
"""Figures that stand beside a main one."""


def _table(attack: str, findings: Sequence[Result]) -> AttackTable:
    metrics = [wording.metric_label(name) for name in dict.fromkeys(f.metric for f in findings if f.value is not None)]
    return AttackTable(
        attack,
        TITLES[attack],
        MEANINGS[attack],
        _verdicts(findings),
        tuple((m.label, m.meaning) for m in metrics if m.meaning),
        tuple(map(_line, findings)),
        tuple(dict.fromkeys(f"{_modality(f)}: {f.note}" for f in findings if f.note)),
    )


def _verdicts(findings: Sequence[Result]) -> tuple[str, ...]:
    """One sentence for each modality and target, of the strongest attacker; invalid ones by their reason."""
    sentences: list[str] = []
    strongest = [f for f in strongest_of_each(findings) if f.metric not in _SECONDARY]
    for f in strongest:
        verdict = "Leaks" if f.leaks else "Not distinguishable from guessing with so few people"
        sentences.append(f"{_name(f)}: {_figure(f)} by {f.attacker}, chance {_chance(f)}. {verdict}.")
    counted = {(f.modality, f.target) for f in strongest}
    for f in findings:
        if f.invalid and not f.is_anchor and (f.modality, f.target) not in counted:
            counted.add((f.modality, f.target))
            sentences.append(f"{_modality(f)}, {f.target}: invalid, no evidence of privacy: {f.reason}.")
    return tuple(sentences)


def _line(f: Result) -> FindingLine:
    return FindingLine(
        f"{_modality(f)}, {f.target}",
        f.attacker if f.layer is None else f"{f.attacker} on {f.layer}",
        SCENARIOS_OF_INFERENCE[f.scenario],
        wording.metric_label(f.metric).label,
        wording.figure(f.value, f.metric),
        wording.interval(f.low, f.high, f.metric),
        _chance(f),
        f"{f.speakers} / {f.clips:,}" if f.clips else str(f.speakers),
        f.invalid,
        f.leaks and not f.is_anchor,
        f.reason,
    )


def _name(f: Result) -> str:
    return f"{_modality(f)}, {f.target}, {wording.metric_label(f.metric).label}"


def _modality(f: Result) -> str:
    return "Voice and face" if f.modality == "both" else wording.modality_label(f.modality)


def _figure(f: Result) -> str:
    return " ".join(filter(None, (wording.figure(f.value, f.metric), wording.interval(f.low, f.high, f.metric))))


def _chance(f: Result) -> str:
    return wording.figure(f.chance, f.metric)
