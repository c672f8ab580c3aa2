"""From predictions to the emotion part of the report."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.report.report_schema import ClassScore, EmotionResult, EmotionTable
from moretta.shared.core.errors import RunError
from moretta.shared.core.labels import EMOTIONS, original_columns


def emotion_result(
    scores: npt.ArrayLike,
    truth: Sequence[int] | npt.NDArray[np.int64],
    speakers: Sequence[Hashable],
    *,
    seed: int,
    draws: int = 1000,
    model: str = "",
    classes: Sequence[str] = EMOTIONS,
) -> EmotionResult:
    """Score predictions on clips of held-out speakers.

    The ANG/HAP/SAD table takes the clips of these three and the highest of their three scores: the question the
    original study asked, put to the same model.

    Args:
        scores: [n, c] score of each class, higher is likelier.
        truth: [n] class indices.
        speakers: [n] pseudonyms.
        seed: of the bootstrap.
        draws: bootstrap samples; 0 gives no intervals.
        model: its name, for the report.
        classes: [c] names of the classes.

    Raises:
        RunError: there is no clip, the lengths differ, or a score is not finite.
    """
    table = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(truth, dtype=np.int64)
    if not len(labels) or table.shape != (len(speakers), len(classes)) or not np.isfinite(table).all():
        raise RunError(
            f"emotion scores of shape {list(table.shape)} for {len(labels)} clips and {len(speakers)} speaker entries",
            expected=f"one finite row of {len(classes)} scores for each of at least one clip",
            fix="check that the held-out fold has clips and that the model did not diverge",
        )
    settings: dict[str, Any] = {"seed": seed, "draws": draws, "model": model}

    def scored(kept: npt.NDArray[np.int64], columns: Sequence[int]) -> EmotionTable:
        predicted = table[kept][:, list(columns)].argmax(axis=1)
        mine = [columns.index(label) for label in labels[kept]]
        counts = confusion.confusion_by_speaker(mine, predicted, [speakers[i] for i in kept], classes=len(columns))
        return table_from_counts(counts, [classes[column] for column in columns], **settings)

    whole = scored(np.arange(len(labels)), range(len(classes)))
    columns = list(original_columns(classes))
    kept = np.flatnonzero(np.isin(labels, columns))
    three = scored(kept, columns) if columns and len(kept) else None
    return EmotionResult(**whole.model_dump(), three_class=three)


def table_from_counts(
    by_speaker: confusion.Counts, classes: Sequence[str], *, seed: int, draws: int = 1000, model: str = ""
) -> EmotionTable:
    """Score confusion counts [s, c, c] of each speaker."""
    counts = by_speaker.sum(axis=0)
    of_accuracy = confusion.bootstrap(by_speaker, confusion.accuracy, seed=seed, draws=draws) or (None, None)
    of_uar = confusion.bootstrap(by_speaker, confusion.uar, seed=seed, draws=draws) or (None, None)
    support = counts.sum(axis=1)
    columns = zip(
        classes, confusion.precision(counts), confusion.recall(counts), confusion.f1(counts), support, strict=True
    )
    return EmotionTable(
        classes=tuple(str(name) for name in classes),
        accuracy=float(confusion.accuracy(counts)),
        accuracy_low=of_accuracy[0],
        accuracy_high=of_accuracy[1],
        uar=float(confusion.uar(counts)),
        uar_low=of_uar[0],
        uar_high=of_uar[1],
        chance=1 / int((support > 0).sum()),
        per_class=tuple(
            ClassScore(emotion=str(name), precision=_known(p), recall=_known(r), f1=_known(f), clips=int(n))
            for name, p, r, f, n in columns
        ),
        confusion=tuple(tuple(int(cell) for cell in row) for row in counts),
        clips=int(counts.sum()),
        speakers=len(by_speaker),
        model=model,
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
