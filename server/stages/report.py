"""Stage report: everything the run found, in `report.json` and `report.html`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from moretta.server.stages.gate import check_gate
from moretta.server.stages.run_context import MEMORY_FILE, Run
from moretta.shared.audit.report.headline import headlines
from moretta.shared.audit.report.privacy import site_level_rows
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.report_schema import (
    CorpusPart,
    DropCount,
    EmotionResults,
    PrivacyRow,
    Report,
    RunPart,
    SiteRow,
)
from moretta.shared.core.versions import versions
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import FaceSection


def report(run: Run, rates: dict[str, float]) -> None:
    """Put the report together and write it."""
    del rates
    emotion = EmotionResults(
        voice=run.emotion.get("voice"),
        face=run.emotion.get("face"),
        fused=run.emotion.get("fused"),
        learned=run.emotion.get("learned"),
        absent={m: why for m, why in run.absent.items() if m not in run.emotion},  # type: ignore[misc]
    )
    privacy = privacy_rows(run)
    headline = headlines(run.audit, emotion)
    made = Report(
        headline=headline,
        gate=check_gate(
            run.study.gate,
            headline,
            privacy,
            released=[m for m in run.study.modalities if m not in run.absent],
            unit=run.study.privacy.unit,
        ),
        emotion=emotion,
        emotion_central=run.central,
        audit=tuple(run.audit),
        inference=tuple(run.findings),
        utility=tuple(run.utility),
        privacy=tuple(privacy),
        corpus=_corpus(run),
        run=_run(run),
    )
    write_report(made, run.folder)
    run.gate = made.gate


def privacy_rows(run: Run) -> list[PrivacyRow]:
    """Every site's releases at every unit, and its DP-SGD after the first round, the last, and at speaker level."""
    rows: list[PrivacyRow] = []
    for site in sorted(run.releases):
        for statement in run.releases[site].statement.anonymizers:
            rows += _release_rows(site, statement, run.sites[site].recomputed)
        rows += _training_rows(run, site)
        rows += site_level_rows(run.study, site, run.sites[site].rounds)
    return rows


def _release_rows(
    site: str, statement: AnonymizerStatement, recomputed: Mapping[str, float | None]
) -> list[PrivacyRow]:
    """As the site states them; where the server computed more, that, with what was stated beside it."""
    again = dict(recomputed) if statement.modality == "voice" else {}
    rows = []
    for p in statement.privacy:
        key = f"{p.mechanism}/{p.unit}"
        note = f"the site states {p.epsilon:g}; {p.note}" if key in again else p.note
        rows.append(
            PrivacyRow(
                site=site,
                mechanism=f"{statement.modality} release: {p.mechanism}",
                unit=p.unit,
                epsilon=again.pop(key, p.epsilon),
                delta=p.delta,
                nominal=p.nominal,
                note=note,
            )
        )
    for key, epsilon in again.items():
        mechanism, _, unit = key.rpartition("/")
        rows.append(
            PrivacyRow.model_validate(
                {
                    "site": site,
                    "mechanism": f"{statement.modality} release: {mechanism}",
                    "unit": unit,
                    "epsilon": epsilon,
                    "delta": 0.0,
                    "note": "the site states nothing",
                }
            )
        )
    return rows


def _training_rows(run: Run, site: str) -> list[PrivacyRow]:
    study, record = run.study, run.sites[site]
    if not study.privacy.dp_sgd or not record.epsilon:
        return []
    note = _together(run)
    numbers = sorted(record.epsilon)
    rows = [
        PrivacyRow(
            site=site,
            mechanism="dp-sgd",
            unit=study.privacy.unit,
            epsilon=record.epsilon[number],
            delta=study.privacy.delta,
            nominal=study.privacy.epsilon if number == numbers[-1] else None,
            note=note,
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
            epsilon=record.levels.get(other),
            delta=study.privacy.delta,
            note=_OTHER_UNIT[other],
        )
    )
    return rows


def _together(run: Run) -> str:
    """Whose steps an epsilon counts."""
    if len(run.trained) < 2:
        return ""
    if "fusion" not in run.trained:
        return "voice and face model together"
    if len(run.study.sharing_clips) == 1:
        return "voice, face and fusion model together"
    return "voice and face model together; or the fusion, on clips that they did not see, if that is more"


_OTHER_UNIT = {
    "speaker": "clips are sampled and clipped one by one: what all clips of the speaker who has most of them lose",
    "clip": "speakers are sampled and clipped as a whole: what one clip loses, which moves its speaker's part",
}


def _corpus(run: Run) -> CorpusPart:
    dropped = dict(run.plan.dropped)
    for record in run.sites.values():
        for reason, count in record.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return CorpusPart(
        name=run.plan.corpus_name,
        synthetic=run.synthetic,
        labels=run.study.labels,
        clips=sum(r.clips for r in run.sites.values()),
        speakers=sum(r.speakers for r in run.sites.values()),
        dropped=tuple(DropCount(reason=r, count=c) for r, c in sorted(dropped.items())),
    )


def _run(run: Run) -> RunPart:
    face = run.study.face
    return RunPart(
        seed=run.study.seed,
        versions=versions(),
        command=run.plan.command,
        seconds=round(time.time() - run.started, 2),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        stages=tuple(run.stages),
        peak_memory_bytes=_peak_memory(run.folder),
        seeded_noise=any(a.noise == "seeded" for r in run.releases.values() for a in r.statement.anonymizers),
        deployment=isinstance(run.plan, DeploymentPlan),
        study=run.study.model_dump(mode="json", exclude_none=True),
        face_preset=_face_preset(face) if "face" not in run.absent else None,
        warnings=tuple(run.warnings),
        sites=tuple(
            SiteRow(
                site=site,
                speakers=record.speakers,
                clips=record.clips,
                rounds=record.rounds,
                dropped=sum(record.dropped.values()),
                missed=record.missed_as_text(),
            )
            for site, record in sorted(run.sites.items())
        ),
        rounds=tuple(run.rounds),
    )


def _peak_memory(folder: Path) -> int | None:
    path = folder / MEMORY_FILE
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


def _face_preset(face: FaceSection) -> str | None:
    """The size of the autoencoder in words; None where faces are hidden in another way."""
    from moretta.shared.models.autoencoder import AutoencoderSpec

    if face.anonymizer != "autoencoder":
        return None
    spec = AutoencoderSpec.preset(face.preset)
    return f"{face.preset} ({spec.side} x {spec.side} pixels, latent size {spec.latent})"
