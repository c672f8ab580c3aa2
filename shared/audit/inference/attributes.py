"""Attribute inference: sex or age group of people whom the attacker has never met, from their released clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.inference.attack_result import Leak, infer_class

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MIN_SPEAKERS_PER_CLASS = 2


def infer_attribute(
    features: npt.NDArray[Any],
    label: npt.NDArray[Any],
    speaker: npt.NDArray[np.integer],
    *,
    target: str,
    folds: int = 5,
    resamples: int = 200,
    seed: int = 0,
) -> list[Leak]:
    """Balanced accuracy of each attacker on people outside its training folds.

    For each attacker two figures: from single clips, and (`..., all clips`) from the mean of a person's predicted
    probabilities, as an adversary who knows that clips belong together would use them.

    Args:
        features: [n, d], finite, of released clips.
        label: [n], the attribute; one value a speaker.
        speaker: int [n].
        target: what is inferred, for the report.
        folds: speaker-disjoint folds, fewer where a class has fewer speakers.
        resamples: of the bootstrap over speakers.
        seed: of folds, forests and bootstrap.
    """
    classes, y = np.unique(label, return_inverse=True)
    speakers, first = np.unique(speaker, return_index=True)
    per_class = np.bincount(y[first], minlength=len(classes))
    invalid = _invalid_reason(target, len(classes), int(per_class.min()))
    if invalid is not None:
        return [Leak(target, name, None, None, None, len(speakers), invalid) for name in ATTACKERS]
    splits = _folds(y, speaker, min(folds, int(per_class.min())), seed)
    found: list[Leak] = []
    for name, make in ATTACKERS.items():
        probability = _out_of_fold(np.asarray(features, dtype=np.float64), y, splits, partial(make, seed))
        pooled = np.stack([probability[speaker == person].mean(axis=0) for person in speakers])
        views = ((name, probability, y, speaker), (f"{name}, all clips", pooled, y[first], speakers))
        found += [
            infer_class(
                target=target,
                attacker=attacker,
                right=p.argmax(axis=1) == truth,
                label=truth,
                unit=unit,
                resamples=resamples,
                seed=seed,
            )
            for attacker, p, truth, unit in views
        ]
    return found


def _invalid_reason(target: str, classes: int, fewest: int) -> str | None:
    if classes < 2:
        return f"everybody has the same {target}: nothing can be inferred"
    if fewest < MIN_SPEAKERS_PER_CLASS:
        return f"a class of {target} has {fewest} speaker: at least {MIN_SPEAKERS_PER_CLASS} are needed"
    return None


def _folds(y: Ints, speaker: npt.NDArray[np.integer], folds: int, seed: int) -> list[tuple[Ints, Ints]]:
    from sklearn.model_selection import StratifiedKFold

    speakers, first = np.unique(speaker, return_index=True)
    # Folds of people, not of clips: stratified on people, every training set has every class.
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(speakers, y[first])
    return [
        (np.flatnonzero(np.isin(speaker, speakers[a])), np.flatnonzero(np.isin(speaker, speakers[b]))) for a, b in split
    ]


def _out_of_fold(features: Floats, y: Ints, splits: list[tuple[Ints, Ints]], make: Callable[[], Any]) -> Floats:
    probability = np.zeros((len(y), int(y.max()) + 1))
    for train, test in splits:
        probability[test] = make().fit(features[train], y[train]).predict_proba(features[test])
    return probability


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, random_state=seed)
    return make_pipeline(StandardScaler(), model)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)


ATTACKERS: Mapping[str, Callable[[int], Any]] = {"logistic regression": _logistic, "random forest": _forest}
