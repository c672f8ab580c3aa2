"""Stages evaluate and central check: how well emotion is recognized, by the global models and without federation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.context import RunContext
from moretta.server.stages.results import Arrays, EmotionScores, Releases, Tables
from moretta.server.stages.statement_checks import check_counts, tested_clips
from moretta.shared.audit.report.emotion import emotion_result, table_from_counts
from moretta.shared.audit.report.report_schema import EmotionResult, Modality
from moretta.shared.core.array_types import Int64
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import ORIGINAL_CLASSES, original_columns
from moretta.shared.core.reproducibility import derive
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Evaluated
from moretta.shared.models.reliability import check_reliability, expected_calibration_error
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

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

    Args:
        context: of the run.
        grid: to the sites.
        releases: whose sites test the models, on clips that they released.
        models: weights by kind.
        absent: outputs that there cannot be.

    Returns:
        The scores, and why further outputs have none.

    Raises:
        RunError: fewer sites than the study needs responded.
    """
    study, held_out = context.study, releases.held_out(context.plan)
    content = RecordDict({**wire.models_to_records(models), wire.CONFIG: wire.study_config(study)})
    tested = [m for m in study.modalities if m in models]
    whole = {*tested, *(("fused",) if len(tested) > 1 else ())}
    responses = grid.request(
        wire.EVALUATE,
        lambda _: content,
        sites=releases.kept,
        deadline_seconds=study.deadline_seconds("evaluate"),
    )
    found = EmotionScores()
    failures: dict[str, str] = {}
    for response in responses:
        with noting_failure_of(response.site, failures):
            evaluated = response.of(Evaluated)
            counted = _counts(evaluated, study.classes)
            bins = _reliability(evaluated, counted)
            release = releases.kept[response.site]
            left_out = {
                output: check_counts(
                    tested_clips(release, held_out, output, study.classes), output, counted.get(output, {})
                )
                for output in sorted(whole | counted.keys())
            }
            for output, clips in left_out.items():
                if clips and output in whole:
                    context.warn(f"{response.site} left {clips} of its held-out clips out of the test of {output}")
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
    sizes = {o: len(classes) for o in OUTPUTS} | {f"{o}/3": len(original_columns(classes)) for o in OUTPUTS}
    checked: dict[str, Tables] = {}
    for output, by_speaker in evaluated.counts.items():
        size = sizes[output]
        for speaker, rows in by_speaker.items():
            if {len(rows), *map(len, rows)} != {size}:
                raise ReleaseError(f"a table of {len(rows)} rows for {output!r}", expected=f"{size} x {size}")
            checked.setdefault(output, {})[speaker] = np.array(rows, np.int64)
    return checked


def _reliability(evaluated: Evaluated, counted: dict[str, Tables]) -> Tables:
    """How sure the models were on one site's clips, by output, as far as that agrees with its confusion counts.

    Raises:
        ReleaseError: it does not.
    """
    checked: Tables = {}
    for output, rows in evaluated.reliability.items():
        tables = list(counted.get(output, {}).values())
        clips, right = (sum(int(each) for each in (f(t) for t in tables)) for f in (np.sum, np.trace))
        checked[output] = check_reliability(np.array(rows, np.int64), clips=clips, right=right)
    return checked


def _result(study: Study, output: str, found: EmotionScores) -> EmotionResult:
    seed = derive(study.seed, "emotion intervals")
    share = study.voice.weight
    model = {
        "voice": study.voice.model,
        "face": study.face.model,
        "fused": f"{share:.0%} voice, {1 - share:.0%} face",
        "learned": f"{study.model_of('fusion')}, trained on releases",
    }[output]
    whole = table_from_counts(_stack(found.counts[output]), study.classes, seed=seed, model=model)
    three = found.counts.get(f"{output}/3")
    original = table_from_counts(_stack(three), ORIGINAL_CLASSES, seed=seed, model=model) if three else None
    bins = found.reliability.get(output)
    ece = None if bins is None else expected_calibration_error(bins)
    return EmotionResult(**whole.model_dump(), three_class=original, ece=ece)


def _stack(tables: Tables) -> Int64:
    return np.stack([tables[speaker] for speaker in sorted(tables)])


def central_check(context: RunContext, releases: Releases, public: Arrays) -> EmotionResult | None:
    """The original project's random forest on voice releases, cross-validated over speaker-disjoint folds.

    It spends nothing: it only uses what was released already. It shows what federation and DP-SGD cost.

    Returns:
        None where there are fewer than two speakers.
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
