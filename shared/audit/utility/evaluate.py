"""All utility evaluators on originals and releases, on other people than they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from moretta.shared.audit.crossval import out_of_fold, speaker_folds
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.confusion import bootstrap, confusion_by_speaker, uar
from moretta.shared.audit.protocol import SCENARIOS, Scenario, SetName
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import matched
from moretta.shared.audit.utility.evaluators import UtilityEvaluator, evaluator_names, get_evaluator
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.atomic import disk_failed
from moretta.shared.core.workers import Progress, Workers, one_thread

FOLDS = 5
OTHER_FORM = "codes were released: an evaluator that was trained on sound cannot read them"
UTILITY_SCENARIOS = ("unprotected", "semi-informed", "ignorant")
"""Trained and tested on originals, trained and tested on releases, and trained on originals but tested on releases.
The last is the VoicePrivacy Challenge's question: does a model of open data still work? A pretrained evaluator is
tested on originals (`unprotected`) and on releases (`ignorant`)."""


def evaluate_utility(
    original: ClipSet | None,
    released: ClipSet,
    *,
    evaluators: Sequence[str] = (),
    seed: int = 0,
    draws: int = 1000,
    workers: int | None = None,
    scratch: Path,
    progress: Progress | None = None,
) -> list[Result]:
    """Results of every evaluator of this modality, by name.

    Args:
        original: the same clips before anonymization; None if they are not to be had.
        released: what left the sites.
        evaluators: names; empty means all.
        seed: of folds, training and intervals.
        draws: resamples of each interval, over speakers.
        workers: processes; None takes one for each CPU.
        scratch: where small views of the clips may be kept meanwhile.
        progress: called after every finished evaluator.

    Raises:
        AttackersError: an unknown evaluator.
        RunError: the originals are of other clips.
    """
    names = [n for n in (evaluators or evaluator_names()) if get_evaluator(n).modality == released.modality]
    found: dict[str, list[Result]] = {}
    with one_thread(), Workers(workers) as pool:
        both, _ = matched(original, released, scratch, progress=progress)
        tasks = [(name, both, seed, draws) for name in names]
        if progress is not None and tasks:
            progress("utility evaluators done", 0, len(tasks))
        for done, (index, results) in enumerate(pool.run(_evaluate, tasks), start=1):
            found[names[index]] = results
            if progress is not None:
                progress(f"emotion by {names[index]}", done, len(names))
    return [result for name in sorted(found) for result in found[name]]


def _evaluate(name: str, sets: dict[SetName, ClipSet], seed: int, draws: int) -> list[Result]:
    """One evaluator. Whatever goes wrong becomes a reason, never an exception of the audit."""
    cls = get_evaluator(name)
    clips = sets["released"]
    emotions, classes = clips.emotions, clips.classes
    present, speakers = len(np.unique(emotions)), len(clips.speakers)
    scenarios = [s for wanted in UTILITY_SCENARIOS for s in SCENARIOS if s.name == wanted and _is_asked(cls, s, sets)]
    about = Result(
        attack="utility",
        target="emotion",
        modality=cls.modality,
        attacker=name,
        kind=cls.kind,
        scenario="",
        metric="uar",
        chance=1 / max(1, present),
        speakers=speakers,
        clips=len(clips),
    )
    reason = cls.missing() or cls.unfit(classes)
    if reason is None and (present < 2 or speakers < 2):
        reason = f"{present} emotions of {speakers} speakers, at least two of each are needed"
    vectors: dict[SetName, Float32] = {}
    found = []
    for scenario in scenarios:
        of_scenario = about.model_copy(update={"scenario": scenario.name})
        train = scenario.trial if cls.kind == "pretrained" else scenario.train
        if reason is not None:
            found.append(of_scenario.invalidated(reason))
        elif sets[train].holds_codes != sets[scenario.trial].holds_codes:
            found.append(of_scenario.invalidated(OTHER_FORM))
        else:
            try:
                for key in (train, scenario.trial):
                    vectors[key] = vectors[key] if key in vectors else cls(classes).vectors(sets[key])
                sides = vectors[train], vectors[scenario.trial]
                scores = _out_of_fold(lambda: cls(classes), sides, emotions, clips.labels, seed)
                counts = confusion_by_speaker(emotions, scores.argmax(1), clips.labels.tolist(), classes=len(classes))
                low, high = bootstrap(counts, uar, seed=seed, draws=draws) or (None, None)
                value = float(uar(counts.sum(axis=0)))
                found.append(of_scenario.model_copy(update={"value": value, "low": low, "high": high}))
            except Exception as error:
                if disk_failed(error):
                    raise
                found.append(of_scenario.invalidated(f"{type(error).__name__}: {error}"))
    return found


def _is_asked(cls: type[UtilityEvaluator], scenario: Scenario, sets: dict[SetName, ClipSet]) -> bool:
    """Whether the sets are there. A pretrained evaluator has no training data, so releases are one scenario."""
    if cls.kind == "pretrained":
        return scenario.trial in sets and scenario.name != "semi-informed"
    return {scenario.train, scenario.trial} <= set(sets)


def _out_of_fold(
    make: Callable[[], UtilityEvaluator], sides: tuple[Float32, Float32], emotions: Int64, speakers: Int64, seed: int
) -> Float32:
    """Scores [clips, classes] of every clip, by an evaluator trained on other people. `sides`: to train and to test."""
    train, test = sides

    def scores(known: Int64, held_out: Int64) -> Float32:
        evaluator = make()
        evaluator.fit(train[known], emotions[known], seed=seed)
        return evaluator.scores(test[held_out])

    return np.asarray(out_of_fold(scores, speaker_folds(speakers, FOLDS)))
