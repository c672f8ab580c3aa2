"""`moretta export`: the trained model of a finished run, simulated or over real sites, with its card and digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from moretta.deploy.model.delivered_model import arrays_of, write_model
from moretta.deploy.model.model_card import Calibration, Expected, Figures, ModelCard, limits_of_use
from moretta.deploy.runtime.run_folder import prepare_folder
from moretta.server.stages.run import Run
from moretta.server.stages.state import load_state
from moretta.shared.audit.report.report_file import load_report
from moretta.shared.audit.report.report_schema import EmotionResults, PrivacyRow
from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import RunError
from moretta.shared.core.terms import Modality
from moretta.shared.models.emotion import study_model
from moretta.shared.models.outputs import Rows, outputs_of
from moretta.shared.models.reliability import (
    expected_calibration_error,
    fit_temperature,
    reliability_counts,
    surprise,
    tempered,
)
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.public_arrays import described
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

FEWEST_PEOPLE = 3
"""Fewest held-out people for a temperature: it is tested on each, fitted on at least two others."""
Models = dict[ModelKind, dict[str, Array]]
Labels = dict[str, tuple[int, str]]
"""Clip -> number of its class, and pseudonym of its speaker."""


def export_model(folder: Path, out: Path) -> ModelCard:
    """Write the model of the run in `folder` to `out`, a new or empty folder.

    Raises:
        ReleaseError: no finished study is there, or its files cannot be read.
        RunError: it has no trained model, or its models were removed when a person withdrew.
        StudyError: `out` is not empty.
    """
    report, run = load_report(folder), load_state(folder)
    study, models = run.context.study, _models(run)
    arrays = arrays_of(models, run.public)
    card = ModelCard(
        name=study.name,
        study=study.for_sites(),
        study_digest=study.digest(),
        classes=study.classes,
        models=tuple(models),
        expects=tuple(_expected(study, m) for m in study.modalities if m in models),
        arrays=described(arrays),
        emotion=_figures(report.emotion),
        calibration=calibrations(run, models),
        corpus=report.corpus,
        public_start=report.emotion_public,
        dp_sgd=study.privacy.dp_sgd,
        privacy=worst_rows(report.privacy),
        headline=report.headline,
        gate=report.gate,
        deployment=report.run.deployment,
        seeded_noise=report.run.seeded_noise,
        versions=report.run.versions,
        finished=report.run.finished,
        warnings=report.run.warnings,
        limits=(),
    )
    card = card.model_copy(update={"limits": tuple(limits_of_use(card))}).sealed()
    prepare_folder(out)
    write_model(out, card, arrays)
    return card


def _models(run: Run) -> Models:
    found: Models = {}
    for kind in run.training.trained:
        try:
            found[kind] = dict(load_file(run.context.checkpoint(kind)))
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"the trained {kind} model of {run.context.folder} cannot be read",
                expected=f"{run.context.checkpoint(kind)}",
                fix="run the study again; `moretta study withdraw --models` removes models on purpose",
            ) from error
    if not found:
        why = "; ".join(f"{output}: {reason}" for output, reason in sorted(run.absent.items()))
        raise RunError(f"the run {run.context.folder} has no trained model ({why})", expected="at least one")
    return found


def _expected(study: Study, modality: Modality) -> Expected:
    section = study.section(modality)
    return Expected(
        modality=modality,
        anonymizer=section.anonymizer,
        version=anonymizer_of(study, modality).version,
        form=section.form,
        options=section.options.without_paths().model_dump(mode="json"),
        model=section.model,
    )


def _figures(emotion: EmotionResults) -> dict[str, Figures]:
    return {
        output: Figures(
            **{key: getattr(table, key) for key in ("uar", "uar_low", "uar_high", "chance", "clips")},
            people=table.speakers,
        )
        for output, table in emotion.by_modality().items()
        if table is not None
    }


def worst_rows(rows: tuple[PrivacyRow, ...]) -> tuple[PrivacyRow, ...]:
    """Row with the largest loss for each mechanism and unit, in order of first appearance; no guarantee is the largest.

    Rows after single rounds of training are left out but for the last, which has them all.
    """
    worst: dict[tuple[str, str], PrivacyRow] = {}
    for row in rows:
        known = worst.get((row.mechanism, row.unit))
        if known is None or _size(row) > _size(known):
            worst[row.mechanism, row.unit] = row.model_copy(update={"site": "the site that lost most"})
    return tuple(worst.values())


def _size(row: PrivacyRow) -> float:
    return float("inf") if row.epsilon is None else row.epsilon


def held_out_outputs(run: Run, models: Mapping[ModelKind, Mapping[str, Array]]) -> tuple[dict[str, Rows], Labels]:
    """Predictions of the models for the releases of held-out people, by output; and each clip's class and person."""
    study, held_out = run.context.study, run.releases.held_out(run.context.plan)
    inputs: dict[Modality, tuple[list[str], Float32]] = {}
    truth: Labels = {}
    for modality in study.modalities:
        if modality not in models:
            continue
        found = run.releases.model_inputs(run.public, modality, study_model(study, modality))
        pairs = [(clip, x) for x, clip in found if clip.speaker in held_out]
        if pairs:
            inputs[modality] = [clip.clip for clip, _ in pairs], np.stack([x for _, x in pairs])
            truth |= {clip.clip: (study.classes.index(clip.emotion), clip.speaker) for clip, _ in pairs}
    return outputs_of(study, models, inputs), truth


def calibrations(run: Run, models: Mapping[ModelKind, Mapping[str, Array]]) -> dict[str, Calibration]:
    """A temperature for each output, fitted on the releases of all held-out people, on whom no model was trained."""
    outputs, truth = held_out_outputs(run, models)
    return {output: _calibration(rows, truth) for output, rows in outputs.items()}


def _calibration(rows: Rows, truth: Labels) -> Calibration:
    clips = sorted(rows)
    labels = np.array([truth[clip][0] for clip in clips], np.int64)
    people = np.array([truth[clip][1] for clip in clips])
    known: dict[str, Any] = {"clips": len(clips), "people": len(set(people.tolist()))}
    if known["people"] < FEWEST_PEOPLE:
        note = f"fewer than {FEWEST_PEOPLE} people are held out: a temperature could not be tested"
        return Calibration(temperature=None, note=note, **known)
    before = np.stack([rows[clip] for clip in clips])
    after = np.empty_like(before)
    for person in np.unique(people):
        theirs = people == person
        after[theirs] = tempered(before[theirs], fit_temperature(before[~theirs], labels[~theirs]))
    known["ece"] = expected_calibration_error(reliability_counts(before, labels))
    if surprise(after, labels) >= surprise(before, labels):
        note = "a temperature made it no better on people whom it was not fitted on"
        return Calibration(temperature=None, note=note, **known)
    known["ece_calibrated"] = expected_calibration_error(reliability_counts(after, labels))
    return Calibration(temperature=fit_temperature(before, labels), **known)
