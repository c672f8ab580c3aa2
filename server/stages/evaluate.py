"""Stages evaluate and central check: how well emotion is recognized, by the global models and without federation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.run import Arrays, EmotionScores, Releases, RunContext, Tables
from moretta.server.stages.statement_checks import check_counts, tested_clips
from moretta.shared.audit.report.report_schema import (
    EmotionResult,
    EmotionTable,
    Modality,
    ReliabilityBin,
    emotion_result,
    table_from_counts,
)
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import ORIGINAL_CLASSES, original_columns
from moretta.shared.core.reproducibility import derive
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Evaluated
from moretta.shared.models.reliability import THOUSANDTHS, check_reliability, expected_calibration_error
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

OUTPUTS: tuple[Modality, ...] = ("voice", "face", "fused", "learned")
TREES = 300


def evaluate(
    context: RunContext,
    grid: SiteGrid,
    releases: Releases,
    models: Mapping[ModelKind, Arrays],
    absent: Mapping[str, str],
) -> tuple[EmotionScores, dict[str, str]]:
    """Gather confusion counts by pseudonymous speaker and score voice, face, the vote and the learned fusion.

    Returns the scores, and why further outputs than the absent ones have none; raises RunError where too few sites
    responded.
    """
    study, held_out = context.study, releases.held_out(context.plan)
    content = RecordDict({**wire.models_to_records(models), wire.CONFIG: wire.study_config(study)})
    tested = [m for m in study.modalities if m in models]
    whole = {*tested, *(("fused",) if len(tested) > 1 else ())}
    deadline = study.deadline_seconds("evaluate")
    found = EmotionScores()
    failures: dict[str, str] = {}
    responses = grid.request(wire.EVALUATE, lambda _: content, sites=releases.kept, deadline_seconds=deadline)
    for response in responses:
        site = response.site
        with noting_failure_of(site, failures):
            evaluated = response.of(Evaluated)
            counted = _counts(evaluated, study.classes)
            bins = _reliability(evaluated, counted)
            left_out = {}
            for output in sorted(whole | counted.keys()):
                there = tested_clips(releases.kept[site], held_out, output, study.classes)
                left_out[output] = check_counts(there, output, counted.get(output, {}))
            for output, clips in left_out.items():
                if clips and output in whole:
                    context.warn(f"{site} left {clips} of its held-out clips out of the test of {output}")
            for output, tables in counted.items():
                found.counts.setdefault(output, {}).update(tables)
            for output, table in bins.items():
                found.reliability[output] = found.reliability.get(output, 0) + table
    context.leave_out(failures, "evaluate", "did not evaluate")
    left = [response.site for response in responses if response.site not in failures]
    context.require_sites(left, len(grid.sites), "evaluate", failures)
    missing: dict[str, str] = {}
    for output in OUTPUTS:
        if output in absent or (output == "learned" and not study.learns_fusion):
            continue
        if found.counts.get(output):
            found.emotion[output] = _result(study, output, found)
        else:
            missing[output] = "no held-out speaker has a clip of it"
    return found, missing


def _counts(evaluated: Evaluated, classes: tuple[str, ...]) -> dict[str, Tables]:
    """Square tables of the size that the output has."""
    checked: dict[str, Tables] = {}
    for output, by_speaker in evaluated.counts.items():
        size = len(original_columns(classes)) if output.endswith("/3") else len(classes)
        for speaker, rows in by_speaker.items():
            if {len(rows), *map(len, rows)} != {size}:
                raise ReleaseError(f"a table of {len(rows)} rows for {output!r}", expected=f"{size} x {size}")
            checked.setdefault(output, {})[speaker] = np.array(rows, np.int64)
    return checked


def _reliability(evaluated: Evaluated, counted: dict[str, Tables]) -> Tables:
    """How sure the models were on one site's clips, by output; a ReleaseError if that contradicts its counts."""
    checked: Tables = {}
    for output, rows in evaluated.reliability.items():
        tables = counted.get(output, {}).values()
        clips, right = sum(int(t.sum()) for t in tables), sum(int(np.trace(t)) for t in tables)
        checked[output] = check_reliability(np.array(rows, np.int64), clips=clips, right=right)
    return checked


def _result(study: Study, output: str, found: EmotionScores) -> EmotionResult:
    seed, share = derive(study.seed, "emotion intervals"), study.voice.weight
    model = {
        "voice": study.voice.model,
        "face": study.face.model,
        "fused": f"{share:.0%} voice, {1 - share:.0%} face",
        "learned": f"{study.model_of('fusion')}, trained on releases",
    }[output]

    def table(tables: Tables, classes: tuple[str, ...]) -> EmotionTable:
        stacked = np.stack([tables[speaker] for speaker in sorted(tables)])
        return table_from_counts(stacked, classes, seed=seed, model=model)

    three, bins = found.counts.get(f"{output}/3"), found.reliability.get(output)
    return EmotionResult(
        **table(found.counts[output], study.classes).model_dump(),
        three_class=table(three, ORIGINAL_CLASSES) if three else None,
        ece=None if bins is None else expected_calibration_error(bins),
        reliability=()
        if bins is None
        else tuple(
            ReliabilityBin(clips=clips, right=right, confidence=thousandths / THOUSANDTHS / clips)
            for clips, right, thousandths in bins.tolist()
            if clips
        ),
    )


def central_check(context: RunContext, releases: Releases, public: Arrays) -> EmotionResult | None:
    """The original project's random forest on voice releases, cross-validated over speaker-disjoint folds.

    It spends nothing: it only uses what was released already. It shows what federation and DP-SGD cost. None where
    there are fewer than two speakers.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GroupKFold

    from moretta.shared.models.emotion import emotion_model

    pairs = list(releases.model_inputs(public, "voice", emotion_model("voice", "statistics")))
    features = np.stack([x for x, _ in pairs])
    classes = context.study.classes
    labels = np.array([classes.index(clip.emotion) for _, clip in pairs])
    speakers = np.array([clip.speaker for _, clip in pairs])
    folds = min(context.study.split.folds, len(set(speakers)))
    if folds < 2:
        context.warn("the central check needs two speakers")
        return None
    scores = np.zeros((len(labels), len(classes)))
    for train, test in GroupKFold(folds).split(features, labels, speakers):
        seed = derive(context.study.seed, "central check") % 2**31
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1).fit(features[train], labels[train])
        scores[np.ix_(test, forest.classes_)] = forest.predict_proba(features[test])
    seed = derive(context.study.seed, "emotion intervals")
    return emotion_result(scores, labels, speakers.tolist(), seed=seed, model="random forest", classes=classes)
