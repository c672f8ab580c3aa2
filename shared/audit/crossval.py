"""Cross-validation whose folds keep sentences or speakers together, and the check that an attacker learned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Array, Int64, Integers

Splits = Iterable[tuple[Int64, Int64]]
"""Rows to train on and rows to test, of each fold."""
MIN_TRAINING_GAIN = 0.25
"""Least training accuracy, as the share of the way from chance to the best that there is."""


def out_of_fold(predict: Callable[[Int64, Int64], Array], splits: Splits) -> Array:
    """Predictions of models for rows that they were not trained on, in the order of the rows.

    `predict` maps training rows and test rows to predictions [test rows, ...]; `splits` test every row once.
    """
    tested, found = zip(*((test, predict(train, test)) for train, test in splits), strict=True)
    return np.asarray(np.concatenate(found)[np.argsort(np.concatenate(tested))])


def stratified_speaker_folds(y: Int64, speakers: Integers, folds: int, seed: int) -> Splits:
    """Speaker-disjoint folds in which every class of speakers has its share: every training set has every class."""
    from sklearn.model_selection import StratifiedKFold

    people, first = np.unique(speakers, return_index=True)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(people, y[first]):
        yield tuple(np.flatnonzero(np.isin(speakers, people[side])) for side in (train, test))  # type: ignore[misc]


def sentence_folds(y: Int64, clips: ClipSet) -> list[tuple[Int64, Int64]] | None:
    """Up to three folds, disjoint in sentence if every fold's training part still has every speaker.

    None where no speaker has two clips.
    """
    sentences = np.array([clip.sentence for clip in clips.clips])
    names = np.unique(sentences)
    folds = min(3, len(names))
    if folds > 1:
        fold_of = np.searchsorted(names, sentences) % folds
        splits = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(folds)]
        if all(len(np.unique(y[train])) == len(np.unique(y)) for train, _ in splits):
            return splits
    own = np.bincount(y)
    many = np.flatnonzero(own[y] > 1)  # the only clip of a speaker is never held out
    if not len(many):
        return None
    from sklearn.model_selection import StratifiedKFold

    held_out = [many[test] for _, test in StratifiedKFold(min(3, int(own[own > 1].min()))).split(many, y[many])]
    return [(np.setdiff1d(np.arange(len(y)), test), test) for test in held_out]


def estimator(path: str, *values: Any, scaled: bool = False, **options: Any) -> Callable[[int], Any]:
    """Makes a scikit-learn estimator, by its module and name, from a seed; `scaled`: on standardised vectors.

    scikit-learn is imported when it is used.
    """

    def make(seed: int) -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        module, _, name = path.rpartition(".")
        made = getattr(import_module(f"sklearn.{module}"), name)(*values, **options)
        made = made.set_params(random_state=seed) if "random_state" in made.get_params() else made
        return make_pipeline(StandardScaler(), made) if scaled else made

    return make


def choose(model: Any, grid: Mapping[str, Sequence[Any]], x: Array, y: Int64, clips: ClipSet) -> dict[str, Any]:
    """The best parameters by cross-validation over sentences, as the attack itself crosses sentences.

    Only clips that the attacker has are used. With too few clips to hold any out, the first value of each is taken.
    """
    tried = held_out_accuracies(model, grid, x, y, clips)
    return max(tried, key=lambda one: one[1])[0] if tried else {name: values[0] for name, values in grid.items()}


def held_out_accuracies(
    model: Any, grid: Mapping[str, Sequence[Any]], x: Array, y: Int64, clips: ClipSet
) -> list[tuple[dict[str, Any], float]]:
    """Every setting of a grid that trains, and its accuracy on clips held out of `clips`. Empty: too few clips.

    Raises:
        NotConvergedError: no setting fits every fold.
    """
    from sklearn.model_selection import GridSearchCV

    folds = sentence_folds(y, clips)
    if folds is None:
        return []
    search = GridSearchCV(model, dict(grid), cv=folds, n_jobs=1, refit=False, error_score=np.nan)
    search.fit(x, y)
    results = zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)
    found = [(dict(setting), float(accuracy)) for setting, accuracy in results if np.isfinite(accuracy)]
    if not found:
        raise NotConvergedError("no hyper-parameters that train", expected="one setting that fits every fold")
    return found


def check_learned(x: Array, y: Int64, predicted: Integers) -> None:
    """Compare training labels [n] with the trained attacker's predictions on its own training data x [n, ...].

    An attacker that did not learn is invalid: its failure says nothing about the release. Equal clips cannot be
    separated, and that is no fault: the best possible is the most frequent label of each group of equal clips. Where
    all are equal, as in the constant anchor, nothing can be learned.

    Raises:
        NotConvergedError: the training data were not learned.
    """
    if bool((x == x[0]).all()):
        return
    labels: dict[bytes, Counter[int]] = defaultdict(Counter)
    for row, label in zip(x, y.tolist(), strict=True):
        labels[np.ascontiguousarray(row).tobytes()][label] += 1
    best = sum(max(found.values()) for found in labels.values()) / len(y)
    chance = 1 / len(np.unique(y))
    accuracy, least = float((predicted == y).mean()), chance + MIN_TRAINING_GAIN * (best - chance)
    if not accuracy >= least:
        raise NotConvergedError(
            f"training accuracy {accuracy:.2f} where chance is {chance:.2f}",
            expected=f"at least {least:.2f}: it did not converge",
        )
