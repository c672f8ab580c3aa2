"""All judges on originals and releases, people apart: who is judged was never trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.metrics.confusion import bootstrap, confusion_by_speaker, uar
from moretta.shared.audit.modality_audit import matched
from moretta.shared.audit.utility.emotion_row import EmotionRow, SetName
from moretta.shared.audit.utility.evaluator_registry import Floats, Ints, evaluator_names, get_evaluator
from moretta.shared.audit.worker_pool import Workers, one_thread
from moretta.shared.core.pace import Progress
from moretta.shared.core.storage import disk_failed
from moretta.shared.data.clip_names import EMOTIONS

FOLDS = 5
OTHER_FORM = "codes were released: a judge that was trained on sound cannot read them"
_Pair = tuple[SetName, SetName]
PAIRS: tuple[_Pair, ...] = (("original", "original"), ("released", "released"), ("original", "released"))
"""Trained on, judged on. The last is the VoicePrivacy Challenge's question: does a model of open data still work?"""


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
) -> list[EmotionRow]:
    """Rows of every judge of this modality, by name.

    Args:
        original: the same clips before anonymization; None if they are not to be had.
        released: what left the sites.
        judges: names; empty means all.
        seed: of folds, training and intervals.
        draws: resamples of each interval, over speakers.
        workers: processes; None takes one for each CPU.
        scratch: where small views of the clips may be kept meanwhile.
        progress: told of every finished judge.

    Raises:
        AttackersError: an unknown judge.
        RunError: the originals are of other clips.
    """
    names = [n for n in (evaluators or evaluator_names()) if get_evaluator(n).modality == released.modality]
    rows: dict[str, list[EmotionRow]] = {}
    with one_thread(), Workers(workers) as pool:
        sets, _ = matched(original, released, scratch, progress=progress)
        tasks = [(name, sets, seed, draws) for name in names]
        if progress is not None and tasks:
            progress("utility evaluators done", 0, len(tasks))
        for done, (index, found) in enumerate(pool.run(_ask, tasks), start=1):
            rows[names[index]] = found
            if progress is not None:
                progress(f"emotion by {names[index]}", done, len(names))
    return [row for name in sorted(rows) for row in rows[name]]


def _ask(name: str, sets: dict[SetName, ClipSet], seed: int, draws: int) -> list[EmotionRow]:
    """One judge. Whatever goes wrong becomes a reason, never an exception of the audit."""
    cls = get_evaluator(name)
    clips = sets["released"]
    emotions = np.array([clip.emotion.class_index for clip in clips.clips], np.int64)
    present, speakers = len(np.unique(emotions)), len(clips.speakers)
    pairs = [pair for pair in PAIRS if set(pair) <= set(sets)]
    if cls.kind == "pretrained":
        pairs = [(train, test) for train, test in pairs if train == test]

    def row(pair: _Pair, value: float | None, interval: tuple[float, float] | None, reason: str = "") -> EmotionRow:
        low, high = interval or (None, None)
        return EmotionRow(
            modality=cls.modality,
            evaluator=name,
            kind=cls.kind,
            trained_on=pair[0] if cls.kind == "trained" else "public",
            evaluated_on=pair[1],
            uar=value,
            low=low,
            high=high,
            chance=1 / max(1, present),
            speakers=speakers,
            clips=len(clips),
            reason=reason,
        )

    reason = cls.missing()
    if reason is None and (present < 2 or speakers < 2):
        reason = f"{present} emotions of {speakers} speakers, at least two of each are needed"
    if reason is not None:
        return [row(pair, None, None, reason) for pair in pairs]
    vectors: dict[SetName, Floats] = {}
    found = []
    for train, test in pairs:
        if len({sets[train].holds_codes, sets[test].holds_codes}) > 1:
            found.append(row((train, test), None, None, OTHER_FORM))
            continue
        try:
            for key in (train, test):
                vectors[key] = vectors[key] if key in vectors else cls().vectors(sets[key])
            scores = _apart(name, (vectors[train], vectors[test]), emotions, clips.labels, seed=seed)
            counts = confusion_by_speaker(emotions, scores.argmax(1), clips.labels.tolist(), classes=len(EMOTIONS))
            value = float(uar(counts.sum(axis=0)))
            found.append(row((train, test), value, bootstrap(counts, uar, seed=seed, draws=draws)))
        except Exception as error:
            if disk_failed(error):
                raise
            found.append(row((train, test), None, None, f"{type(error).__name__}: {error}"))
    return found


def _apart(name: str, sides: tuple[Floats, Floats], emotions: Ints, speakers: Ints, *, seed: int) -> Floats:
    """Scores [clips, 6] of every clip by a judge that was trained on other people. `sides`: to learn and to judge."""
    train, test = sides
    scores = np.zeros((len(test), len(EMOTIONS)), np.float32)
    for known, tested in _folds(speakers):
        one = get_evaluator(name)()
        one.fit(train[known], emotions[known], seed=seed)
        scores[tested] = one.scores(test[tested])
    return scores


def _folds(speakers: Ints) -> Iterator[tuple[Ints, Ints]]:
    from sklearn.model_selection import GroupKFold

    return GroupKFold(min(FOLDS, len(np.unique(speakers)))).split(speakers, groups=speakers)  # type: ignore[no-any-return]
