"""The page of an audit without a study: what was attacked, how strongly, and what is left of emotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.beyond.findings import Finding
from moretta.shared.audit.report import beyond, judges, view, words
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.html import draw_forests, render_page
from moretta.shared.audit.report.summary import identity_sentence
from moretta.shared.audit.rows import AuditRow
from moretta.shared.audit.utility.rows import EmotionRow


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """How the audit came about."""

    name: str
    """What was attacked, as the reader knows it."""
    seed: int
    originals: bool
    """Whether there were originals to judge the attackers by."""
    command: str
    version: str
    finished: str
    """UTC, ISO 8601."""
    unused: tuple[tuple[str, int], ...] = ()
    """Clips left out, by reason."""


def render_audit(
    facts: AuditFacts, rows: Sequence[AuditRow], findings: Sequence[Finding], judged: Sequence[EmotionRow]
) -> str:
    """One HTML file that loads nothing."""
    parts = headlines(rows, None)
    leaks = beyond.beyond_sentence(tuple(findings))
    sentences = [
        *(identity_sentence(part, without_originals=not facts.originals) for part in parts),
        *([leaks] if leaks else []),
        *_emotion_sentences(judged),
    ]
    return render_page(
        "audit.html",
        facts=facts,
        data_file="audit.json",
        headlines=parts,
        without_originals=not facts.originals,
        findings=sentences,
        audit=view.audit_view(tuple(rows)),
        beyond=beyond.beyond_view(tuple(findings)),
        judged=judges.judge_lines(judged),
        forests=draw_forests(rows),
    )


def _emotion_sentences(judged: Sequence[EmotionRow]) -> list[str]:
    """The best judge of releases of each modality, beside what the same judge reads off originals."""
    sentences = []
    for modality in dict.fromkeys(row.modality for row in judged):
        mine = [row for row in judged if row.modality == modality and row.uar is not None]
        released = [row for row in mine if row.judged_on == "released"]
        if not released:
            continue
        best = max(released, key=lambda row: row.uar or 0.0)
        before = [row for row in mine if row.judged_on == "original" and row.judge == best.judge]
        beside = f", {words.percent(before[0].uar)} on originals" if before else ""
        sentences.append(
            f"{words.modality_label(modality)}, emotion: {best.judge} reads it from releases with an unweighted "
            f"average recall of {words.percent(best.uar)}{beside}, where guessing gives {words.percent(best.chance)}."
        )
    return sentences
