"""The page of an audit without a study: what was attacked, how strongly, and what is left of emotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.shared.audit.audit_row import AuditRow
from moretta.shared.audit.inference.findings import InferenceFinding
from moretta.shared.audit.report import inference_view, utility_view, view, wording
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.html import draw_forests, render_page
from moretta.shared.audit.report.summary import identity_sentence
from moretta.shared.audit.utility.emotion_row import EmotionRow


@dataclass(frozen=True, slots=True)
class AuditPageInfo:
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
    facts: AuditPageInfo, rows: Sequence[AuditRow], findings: Sequence[InferenceFinding], utility: Sequence[EmotionRow]
) -> str:
    """One HTML file that loads nothing."""
    parts = headlines(rows, None)
    leaks = inference_view.inference_sentence(tuple(findings))
    sentences = [
        *(identity_sentence(part, without_originals=not facts.originals) for part in parts),
        *([leaks] if leaks else []),
        *_emotion_sentences(utility),
    ]
    return render_page(
        "audit.html",
        facts=facts,
        data_file="audit.json",
        headlines=parts,
        without_originals=not facts.originals,
        findings=sentences,
        audit=view.audit_view(tuple(rows)),
        inference=inference_view.inference_view(tuple(findings)),
        utility=utility_view.evaluator_lines(utility),
        forests=draw_forests(rows),
    )


def _emotion_sentences(utility: Sequence[EmotionRow]) -> list[str]:
    """The best judge of releases of each modality, beside what the same judge reads off originals."""
    sentences = []
    for modality in dict.fromkeys(row.modality for row in utility):
        mine = [row for row in utility if row.modality == modality and row.uar is not None]
        released = [row for row in mine if row.evaluated_on == "released"]
        if not released:
            continue
        best = max(released, key=lambda row: row.uar or 0.0)
        before = [row for row in mine if row.evaluated_on == "original" and row.evaluator == best.evaluator]
        beside = f", {wording.percent(before[0].uar)} on originals" if before else ""
        sentences.append(
            f"{wording.modality_label(modality)}, emotion: {best.evaluator} reads it from releases with an unweighted "
            f"average recall of {wording.percent(best.uar)}{beside}, where guessing gives "
            f"{wording.percent(best.chance)}."
        )
    return sentences
