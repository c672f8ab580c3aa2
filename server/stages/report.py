"""Stage report: everything the run found, in `report.json` and `report.html`, and whether the study's limits hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from moretta.server.stages.run import (
    MEMORY_FILE,
    Attacks,
    Releases,
    RunContext,
    SiteFacts,
    SiteSpending,
    Training,
)
from moretta.shared.audit.report import report_schema as schema
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.tables import site_level_rows
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.core.device import describe_device, resolve_device
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study

_OTHER_UNIT = {
    "speaker": "clips are sampled and clipped one by one: what all clips of the speaker who has most of them lose",
    "clip": "speakers are sampled and clipped as a whole: what one clip loses, which moves its speaker's part",
}


def report(
    context: RunContext,
    releases: Releases,
    training: Training,
    *,
    scores: Mapping[str, schema.EmotionResult],
    absent: Mapping[str, str],
    central: schema.EmotionResult | None,
    attacks: Attacks,
) -> schema.GatePart:
    """Put the report together and write it; returns whether the study's limits hold."""
    study = context.study
    emotion = schema.EmotionResults(
        **scores,
        absent={m: why for m, why in absent.items() if m not in scores},  # type: ignore[misc]
    )
    privacy, headline = privacy_rows(context, releases, training), headlines(attacks.identity, emotion)
    gate = check_gate(
        study.gate,
        headline,
        privacy,
        released=releases.modalities,
        resamples=study.audit.bootstrap,
        unit=study.privacy.unit,
    )
    made = schema.Report(
        headline=headline,
        gate=gate,
        emotion=emotion,
        emotion_central=central,
        emotion_public=training.public_start,
        audit=tuple(attacks.identity),
        inference=tuple(attacks.inference),
        utility=tuple(attacks.utility),
        privacy=tuple(privacy),
        corpus=_corpus(context, releases),
        run=_run_part(context, releases, training, absent),
    )
    write_report(made, context.folder)
    return gate


def privacy_rows(context: RunContext, releases: Releases, training: Training) -> list[schema.PrivacyRow]:
    """Every site's releases at every unit, and its DP-SGD after the first round, the last, and at speaker level."""
    rows: list[schema.PrivacyRow] = []
    for site, release in sorted(releases.kept.items()):
        for statement in release.statement.anonymizers:
            rows += _release_rows(site, statement, releases.facts[site].recomputed)
        spent = training.spent.get(site, SiteSpending())
        rows += _training_rows(context.study, training, site, spent)
        rows += site_level_rows(context.study, site, spent.rounds)
    return rows


def _release_rows(
    site: str, statement: AnonymizerStatement, recomputed: dict[str, PrivacyStatement]
) -> list[schema.PrivacyRow]:
    """Rows of a release as the site states them; the server's where that is weaker, with the stated one in the note."""
    stated = {f"{statement.modality}/{p.mechanism}/{p.unit}": p for p in statement.privacy}
    computed = {key: row for key, row in recomputed.items() if key.startswith(f"{statement.modality}/")}
    rows = []
    for key, row in (stated | computed).items():
        note = row.note
        if key in computed:
            found = stated.get(key)
            at = f" at delta {found.delta:g}" if found and found.delta else ""
            states = f"{found.epsilon:g}{at}" if found else "nothing"
            note = f"the site states {states}; {note}" if note else f"the site states {states}"
        content = row.model_dump() | {"mechanism": f"{statement.modality} release: {row.mechanism}"}
        rows.append(schema.PrivacyRow(**content | {"site": site, "note": note}))
    return rows


def _training_rows(study: Study, training: Training, site: str, spent: SiteSpending) -> list[schema.PrivacyRow]:
    privacy = study.privacy
    if not privacy.dp_sgd or not spent.epsilon:
        return []
    common: dict[str, Any] = {"site": site, "mechanism": "dp-sgd", "delta": privacy.delta}
    last, note = max(spent.epsilon), _models_together(study, training.trained)
    rows = [
        schema.PrivacyRow(
            **common,
            unit=privacy.unit,
            epsilon=epsilon,
            nominal=privacy.epsilon if number == last else None,
            note=note,
            round=order,
        )
        for order, (number, epsilon) in enumerate(sorted(spent.epsilon.items()), start=1)
    ]
    other: Literal["clip", "speaker"] = "speaker" if privacy.unit == "clip" else "clip"
    return [*rows, schema.PrivacyRow(**common, unit=other, epsilon=spent.levels.get(other), note=_OTHER_UNIT[other])]


def _models_together(study: Study, trained: Sequence[str]) -> str:
    """Which models' steps an epsilon counts."""
    if len(trained) < 2:
        return ""
    if "fusion" not in trained:
        return "voice and face model together"
    if len(study.sharing_clips) == 1:
        return "voice, face and fusion model together"
    return "voice and face model together; or the fusion, on clips that they did not see, if that is more"


def _corpus(context: RunContext, releases: Releases) -> schema.CorpusPart:
    dropped, sites = Counter(context.plan.dropped), releases.facts.values()
    for facts in sites:
        dropped.update(facts.dropped)
    return schema.CorpusPart(
        name=context.plan.corpus_name,
        synthetic=context.plan.synthetic or any(facts.synthetic for facts in sites),
        labels=context.study.labels,
        clips=releases.clips,
        speakers=sum(facts.speakers for facts in sites),
        dropped=tuple(schema.DropCount(reason=r, count=c) for r, c in sorted(dropped.items())),
    )


def _run_part(context: RunContext, releases: Releases, training: Training, absent: Mapping[str, str]) -> schema.RunPart:
    study, progress, memory = context.study, context.progress, context.folder / MEMORY_FILE
    anonymizers = [a for release in releases.kept.values() for a in release.statement.anonymizers]
    return schema.RunPart(
        seed=study.seed,
        versions=versions(),
        device=describe_device(resolve_device(study.run.device)),
        command=context.plan.command,
        seconds=round(time.time() - progress.started, 2),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        stages=tuple(progress.stages),
        peak_memory_bytes=int(memory.read_text(encoding="utf-8")) if memory.exists() else None,
        seeded_noise=any(a.noise == "seeded" for a in anonymizers),
        deployment=isinstance(context.plan, DeploymentPlan),
        study=_shown(study),
        face_preset=anonymizer_of(study, "face").size_note(study) if "face" not in absent else None,
        warnings=tuple(progress.warnings),
        sites=tuple(_site(context, releases, training, site) for site in sorted(progress.missed)),
        rounds=tuple(training.rounds),
    )


def _shown(study: Study) -> dict[str, Any]:
    """The study, plain, with names in place of paths: sites get the report, and the server's folders are not theirs."""
    content = study.model_dump(mode="json", exclude_none=True)
    for key, path in study.paths.items():
        *sections, last = key.split(".")
        part = content
        for section in sections:
            part = part[section]
        part[last] = path.name
    return content


def _site(context: RunContext, releases: Releases, training: Training, site: str) -> schema.SiteRow:
    facts, traffic = releases.facts.get(site, SiteFacts()), context.progress.traffic.get(site)
    return schema.SiteRow(
        site=site,
        speakers=facts.speakers,
        clips=facts.clips,
        rounds=training.spent.get(site, SiteSpending()).rounds,
        dropped=sum(facts.dropped.values()),
        missed=context.progress.missed_as_text(site),
        seconds=None if traffic is None else round(traffic.seconds, 2),
        bytes_sent=None if traffic is None else traffic.sent,
        bytes_received=None if traffic is None else traffic.received,
    )
