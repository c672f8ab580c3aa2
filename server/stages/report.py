"""Stage report: everything the run found, in `report.json` and `report.html`, and whether the study's limits hold."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from moretta.server.stages.context import MEMORY_FILE, RunContext
from moretta.server.stages.results import Results, SiteSpending
from moretta.shared.audit.report.privacy import site_level_rows
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.report_schema import (
    CorpusPart,
    DropCount,
    EmotionResults,
    GatePart,
    Headline,
    PrivacyRow,
    Report,
    RunPart,
    SiteRow,
)
from moretta.shared.audit.report.summary import headlines
from moretta.shared.core.reproducibility import versions
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import GateSection, Study

_OTHER_UNIT = {
    "speaker": "clips are sampled and clipped one by one: what all clips of the speaker who has most of them lose",
    "clip": "speakers are sampled and clipped as a whole: what one clip loses, which moves its speaker's part",
}


def report(context: RunContext, results: Results) -> GatePart:
    """Put the report together and write it; returns whether the study's limits hold."""
    scores = results.evaluation.emotion
    emotion = EmotionResults(
        voice=scores.get("voice"),
        face=scores.get("face"),
        fused=scores.get("fused"),
        learned=scores.get("learned"),
        absent={m: why for m, why in results.absent.items() if m not in scores},  # type: ignore[misc]
    )
    privacy = privacy_rows(context, results)
    headline = headlines(results.attacks.identity, emotion)
    made = Report(
        headline=headline,
        gate=check_gate(
            context.study.gate,
            headline,
            privacy,
            released=[m for m in context.study.modalities if m not in results.absent],
            unit=context.study.privacy.unit,
        ),
        emotion=emotion,
        emotion_central=results.central,
        audit=tuple(results.attacks.identity),
        inference=tuple(results.attacks.inference),
        utility=tuple(results.attacks.utility),
        privacy=tuple(privacy),
        corpus=_corpus(context, results),
        run=_run(context, results),
    )
    write_report(made, context.folder)
    return made.gate


def privacy_rows(context: RunContext, results: Results) -> list[PrivacyRow]:
    """Every site's releases at every unit, and its DP-SGD after the first round, the last, and at speaker level."""
    rows: list[PrivacyRow] = []
    for site, release in sorted(results.releases.kept.items()):
        for statement in release.statement.anonymizers:
            recomputed = results.releases.facts[site].recomputed if statement.modality == "voice" else {}
            rows += _release_rows(site, statement, dict(recomputed))
        spent = results.training.spent.get(site, SiteSpending())
        rows += _training_rows(context.study, results.training.trained, site, spent)
        rows += site_level_rows(context.study, site, spent.rounds)
    return rows


def _release_rows(site: str, statement: AnonymizerStatement, recomputed: dict[str, float | None]) -> list[PrivacyRow]:
    """As the site states them; where the server computed more, that, and the note has what was stated."""
    rows = []
    for p in statement.privacy:
        key = f"{p.mechanism}/{p.unit}"
        note = f"the site states {p.epsilon:g}; {p.note}" if key in recomputed else p.note
        rows.append(
            PrivacyRow(
                site=site,
                mechanism=f"{statement.modality} release: {p.mechanism}",
                unit=p.unit,
                epsilon=recomputed.pop(key, p.epsilon),
                delta=p.delta,
                nominal=p.nominal,
                note=note,
            )
        )
    for key, epsilon in recomputed.items():
        mechanism, _, unit = key.rpartition("/")
        row = {"site": site, "mechanism": f"{statement.modality} release: {mechanism}", "unit": unit, "delta": 0.0}
        rows.append(PrivacyRow.model_validate(row | {"epsilon": epsilon, "note": "the site states nothing"}))
    return rows


def _training_rows(study: Study, trained: Sequence[str], site: str, spent: SiteSpending) -> list[PrivacyRow]:
    if not study.privacy.dp_sgd or not spent.epsilon:
        return []
    numbers = sorted(spent.epsilon)
    rows = [
        PrivacyRow(
            site=site,
            mechanism="dp-sgd",
            unit=study.privacy.unit,
            epsilon=spent.epsilon[number],
            delta=study.privacy.delta,
            nominal=study.privacy.epsilon if number == numbers[-1] else None,
            note=_models_together(study, trained),
            round=order,
        )
        for order, number in enumerate(numbers, start=1)
    ]
    other: Literal["clip", "speaker"] = "speaker" if study.privacy.unit == "clip" else "clip"
    rows.append(
        PrivacyRow(
            site=site,
            mechanism="dp-sgd",
            unit=other,
            epsilon=spent.levels.get(other),
            delta=study.privacy.delta,
            note=_OTHER_UNIT[other],
        )
    )
    return rows


def _models_together(study: Study, trained: Sequence[str]) -> str:
    """Which models' steps an epsilon counts."""
    if len(trained) < 2:
        return ""
    if "fusion" not in trained:
        return "voice and face model together"
    if len(study.sharing_clips) == 1:
        return "voice, face and fusion model together"
    return "voice and face model together; or the fusion, on clips that they did not see, if that is more"


def _corpus(context: RunContext, results: Results) -> CorpusPart:
    releases, dropped = results.releases, dict(context.plan.dropped)
    for facts in releases.facts.values():
        for reason, count in facts.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return CorpusPart(
        name=context.plan.corpus_name,
        synthetic=releases.synthetic(context.plan),
        labels=context.study.labels,
        clips=releases.clips,
        speakers=sum(facts.speakers for facts in releases.facts.values()),
        dropped=tuple(DropCount(reason=r, count=c) for r, c in sorted(dropped.items())),
    )


def _run(context: RunContext, results: Results) -> RunPart:
    study, progress, releases = context.study, context.progress, results.releases
    return RunPart(
        seed=study.seed,
        versions=versions(),
        command=context.plan.command,
        seconds=round(time.time() - progress.started, 2),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        stages=tuple(progress.stages),
        peak_memory_bytes=_peak_memory(context.folder),
        seeded_noise=any(a.noise == "seeded" for r in releases.kept.values() for a in r.statement.anonymizers),
        deployment=isinstance(context.plan, DeploymentPlan),
        study=study.model_dump(mode="json", exclude_none=True),
        face_preset=anonymizer_of(study, "face").size_note(study) if "face" not in results.absent else None,
        warnings=tuple(progress.warnings),
        sites=tuple(_site(context, results, site) for site in sorted(progress.missed)),
        rounds=tuple(results.training.rounds),
    )


def _site(context: RunContext, results: Results, site: str) -> SiteRow:
    facts = results.releases.facts.get(site)
    return SiteRow(
        site=site,
        speakers=facts.speakers if facts else 0,
        clips=facts.clips if facts else 0,
        rounds=results.training.spent.get(site, SiteSpending()).rounds,
        dropped=sum(facts.dropped.values()) if facts else 0,
        missed=context.progress.missed_as_text(site),
    )


def _peak_memory(folder: Path) -> int | None:
    path = folder / MEMORY_FILE
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


def check_gate(
    gate: GateSection,
    headline: Sequence[Headline],
    privacy: Iterable[PrivacyRow],
    *,
    released: Iterable[str],
    unit: Literal["clip", "speaker"] = "clip",
) -> GatePart:
    """Hold the strongest attackers' figures and the spent budgets against the study's limits.

    A limit that could not be checked, because no attacker was valid, counts as broken: silence is not privacy.

    Args:
        gate: the limits.
        headline: the strongest attackers by modality.
        privacy: all budgets.
        released: the modalities that left the sites, whether or not an attacker looked at them.
        unit: that of the study's DP-SGD.
    """
    broken: list[str] = []
    for modality in headline:
        figures = {f.metric: f.value for f in modality.figures}
        top1, eer = figures.get("top1"), figures.get("eer")
        if gate.max_top1 is not None and (top1 is None or top1 > gate.max_top1):
            broken.append(f"{modality.modality}: strongest top-1 {_shown(top1)}, limit {gate.max_top1:.3f}")
        if gate.min_eer is not None and (eer is None or eer < gate.min_eer):
            broken.append(f"{modality.modality}: strongest EER {_shown(eer)}, limit {gate.min_eer:.3f}")
    if gate.max_top1 is not None or gate.min_eer is not None:
        attacked = {modality.modality for modality in headline}
        broken += [
            f"{m}: released and not attacked, so its limits cannot be checked" for m in released if m not in attacked
        ]
    if gate.max_epsilon is not None:
        spent = [(r.site, r.epsilon) for r in privacy if r.mechanism == "dp-sgd" and r.unit == unit]
        for site in sorted({s for s, _ in spent}):
            epsilon = max(e or 0.0 for s, e in spent if s == site)
            if epsilon > gate.max_epsilon:
                broken.append(f"{site}: DP-SGD spent epsilon {epsilon:.2f} per {unit}, limit {gate.max_epsilon:.2f}")
        if not spent:
            broken.append("nothing was trained with DP-SGD, so max_epsilon cannot be checked")
    return GatePart(passed=not broken, broken=tuple(broken))


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
