"""The section on attacks beyond identity: one table an attack, and in one sentence what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.beyond.findings import ATTACKS, strongest_of
from moretta.shared.audit.report import words
from moretta.shared.audit.report.schema import Finding

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
SOURCES: dict[str, str] = {
    "original": "unprotected clips (anchor)",
    "released": "released clips",
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
    void: bool
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


def beyond_view(findings: Sequence[Finding]) -> tuple[AttackTable, ...]:
    """The tables, in a fixed order of attacks."""
    return tuple(
        _table(attack, [f for f in findings if f.attack == attack])
        for attack in ATTACKS
        if any(f.attack == attack for f in findings)
    )


def beyond_sentence(findings: Sequence[Finding]) -> str | None:
    """What leaks beyond identity, for the summary; None if nothing was attacked."""
    if not findings:
        return None
    strongest = [f for f in strongest_of(findings) if f.metric not in _SECONDARY]
    leaking = [f"{_name(f)} {_figure(f)} (chance {_chance(f)})" for f in strongest if f.leaks]
    if leaking:
        return f"Beyond identity, by the strongest attacker: {'; '.join(leaking)}."
    if not strongest:
        return "Beyond identity: every attack is void, so nothing is known. This is not evidence of privacy."
    return f"Beyond identity: none of {words.count_words(len(strongest), 'kind')} of attack was clearly above chance."


_SECONDARY = frozenset({"explained_variance", "tpr_at_fpr_1pct", "tpr_at_fpr_01pct"})
"""Figures that stand beside a main one."""


def _table(attack: str, findings: Sequence[Finding]) -> AttackTable:
    metrics = [words.metric_words(name) for name in dict.fromkeys(f.metric for f in findings if f.value is not None)]
    return AttackTable(
        attack,
        TITLES[attack],
        MEANINGS[attack],
        _verdicts(findings),
        tuple((m.label, m.meaning) for m in metrics if m.meaning),
        tuple(map(_line, findings)),
        tuple(dict.fromkeys(f"{_modality(f)}: {f.note}" for f in findings if f.note)),
    )


def _verdicts(findings: Sequence[Finding]) -> tuple[str, ...]:
    """One sentence for each modality and target, of the strongest attacker; void ones by their reason."""
    sentences: list[str] = []
    strongest = [f for f in strongest_of(findings) if f.metric not in _SECONDARY]
    for f in strongest:
        told = "Leaks" if f.leaks else "Not distinguishable from guessing with so few people"
        sentences.append(f"{_name(f)}: {_figure(f)} by {f.attacker}, chance {_chance(f)}. {told}.")
    counted = {(f.modality, f.target) for f in strongest}
    for f in findings:
        if f.void and f.source != "original" and (f.modality, f.target) not in counted:
            counted.add((f.modality, f.target))
            sentences.append(f"{_modality(f)}, {f.target}: void, no evidence of privacy: {f.reason}.")
    return tuple(sentences)


def _line(f: Finding) -> FindingLine:
    return FindingLine(
        f"{_modality(f)}, {f.target}",
        f.attacker if f.layer is None else f"{f.attacker} on {f.layer}",
        SOURCES[f.source],
        words.metric_words(f.metric).label,
        words.figure(f.value, f.metric),
        words.interval(f.low, f.high, f.metric),
        _chance(f),
        f"{f.people} / {f.clips:,}" if f.clips else str(f.people),
        f.void,
        f.leaks and f.source != "original",
        f.reason,
    )


def _name(f: Finding) -> str:
    return f"{_modality(f)}, {f.target}, {words.metric_words(f.metric).label}"


def _modality(f: Finding) -> str:
    return "Voice and face" if f.modality == "both" else words.modality_label(f.modality)


def _figure(f: Finding) -> str:
    return " ".join(filter(None, (words.figure(f.value, f.metric), words.interval(f.low, f.high, f.metric))))


def _chance(f: Finding) -> str:
    return words.figure(f.chance, f.metric)
