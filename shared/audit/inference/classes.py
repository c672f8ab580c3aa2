"""Inference of a class: sex or age group from released clips of people never met, or from the updates of sites."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moretta.shared.audit.crossval import estimator, out_of_fold, stratified_speaker_folds
from moretta.shared.audit.inference.twelve_networks import CHOSEN, LEAST_PEOPLE, NAMES, Inferred, infer_by_twelve
from moretta.shared.audit.metrics.intervals import bootstrap_rows
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Bool, Float64, Int64, Integers, unit_rows

Update = Mapping[str, Array]
MIN_PEOPLE_PER_CLASS = 2
ALL_LAYERS = "all layers"
DIMENSIONS = 128
CHUNK = 4096
"""Weights projected at a time: memory stays at DIMENSIONS * CHUNK numbers however large a layer is."""


def infer_attribute(
    features: Array,
    label: Array,
    speaker: Integers,
    *,
    about: Result,
    folds: int = 5,
    resamples: int = 200,
    seed: int = 0,
) -> list[Result]:
    """Balanced accuracy of each attacker on people outside its training folds.

    For each attacker two figures: from single clips, and (`..., all clips`) from the mean of a person's predicted
    probabilities, as an adversary who knows that clips belong together would use them. Of the twelve networks the one
    chosen on training people has both figures, and each of the twelve has a figure from single clips, as a `candidate`.

    `features` [n, d] are finite; `label` [n] is one value a speaker; `about` is the result without figures. Folds are
    fewer where a class has fewer speakers.
    """
    classes, y = np.unique(label, return_inverse=True)
    people, first = np.unique(speaker, return_index=True)
    fewest = int(np.bincount(y[first], minlength=len(classes)).min())
    if len(classes) < 2 or fewest < MIN_PEOPLE_PER_CLASS:
        reason = f"everybody has the same {about.target}: nothing can be inferred"
        if len(classes) > 1:
            reason = f"a class of {about.target} has {fewest} speaker: at least {MIN_PEOPLE_PER_CLASS} are needed"
        names = [*ATTACKERS, *FAMILIES]
        return [about.invalidated(reason, attacker=name, speakers=len(people)) for name in names]
    splits = list(stratified_speaker_folds(y, speaker, min(folds, fewest), seed))
    exact = np.asarray(features, dtype=np.float64)
    how = {"resamples": resamples, "seed": seed}
    found: list[Result] = []

    def figures(of: Result, probability: Float64) -> list[Result]:
        pooled = np.stack([probability[speaker == person].mean(axis=0) for person in people])
        together = of.model_copy(update={"attacker": f"{of.attacker}, all clips"})
        return [
            balanced_accuracy(of, probability.argmax(axis=1) == y, y, speaker, **how),
            balanced_accuracy(together, pooled.argmax(axis=1) == y[first], y[first], people, **how),
        ]

    for name, make in ATTACKERS.items():

        def predict(train: Int64, test: Int64, make: Callable[[int], Any] = make) -> Float64:
            return np.asarray(make(seed).fit(exact[train], y[train]).predict_proba(exact[test]))

        found += figures(about.model_copy(update={"attacker": name}), out_of_fold(predict, splits))
    for name, infer in FAMILIES.items():
        of_family = about.model_copy(update={"attacker": name})
        if min(int(np.bincount(y[first][np.isin(people, speaker[train])]).min()) for train, _ in splits) < LEAST_PEOPLE:
            reason = f"a class of {about.target} has too few speakers to train on some and to choose by others"
            found.append(of_family.invalidated(reason, speakers=len(people)))
            continue

        def ask(train: Int64, test: Int64, infer: Infer = infer) -> Float64:
            inferred = infer(exact[train], y[train], speaker[train], exact[test], seed=seed)
            return np.concatenate([inferred.probability[:, [inferred.best]], inferred.probability], axis=1)

        probability = out_of_fold(ask, splits)  # [n, 1 + 12, classes]
        found += figures(of_family, probability[:, 0])
        for number, candidate in enumerate(NAMES, start=1):
            of_one = about.model_copy(update={"attacker": candidate, "candidate": True, "note": CANDIDATES})
            right = probability[:, number].argmax(axis=1) == y
            found.append(balanced_accuracy(of_one, right, y, speaker, **how))
    return found


def infer_from_updates(
    updates: Sequence[Update],
    label: Array,
    group: Array,
    *,
    about: Result,
    speakers: Array | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> list[Result]:
    """Balanced accuracy of inferring a label from each layer's update, and from all layers together, leaving one out.

    Larger layers are projected at random to `DIMENSIONS` (Johnson and Lindenstrauss: distances survive).

    Args:
        updates: one mapping of layer name to change of weights each, all of one shape.
        label: [n], the sex of the update's speakers, or the speaker.
        group: [n], left out together: the speaker when sex is inferred (else the attacker would recognise the speaker),
            the round when the speaker is.
        speakers: [n], resampled by the bootstrap; default `group`.
    """
    from sklearn.model_selection import LeaveOneGroupOut

    classes, y = np.unique(label, return_inverse=True)
    units = np.asarray(group if speakers is None else speakers)
    projected = {name: project([u[name] for u in updates], name, DIMENSIONS, seed) for name in updates[0]}
    # Directions: the length of an update says how much data a site has, and would dominate the rest.
    projected[ALL_LAYERS] = np.concatenate([unit_rows(layer) for layer in projected.values()], axis=1)
    fewest = min(len(np.unique(np.asarray(group)[y == c])) for c in range(len(classes)))
    if len(classes) < 2 or fewest < 2:
        reason = f"all updates have the same {about.target}: nothing can be inferred"
        if len(classes) > 1:
            only = f"a {about.target} has updates of {fewest} group only"
            reason = f"{only}: when it is left out nothing is left to learn from"
        return [about.invalidated(reason, layer=name, speakers=len(np.unique(units))) for name in projected]
    found = []
    for name, layer in projected.items():
        directions = unit_rows(layer)

        def predict(train: Int64, test: Int64, x: Array = directions) -> Array:
            return np.asarray(_logistic(seed).fit(x[train], y[train]).predict(x[test]))

        right = out_of_fold(predict, LeaveOneGroupOut().split(y, groups=group)) == y
        of_layer = about.model_copy(update={"layer": name})
        found.append(balanced_accuracy(of_layer, right, y, units, resamples=resamples, seed=seed))
    return found


def balanced_accuracy(about: Result, right: Bool, label: Int64, unit: Array, *, resamples: int, seed: int) -> Result:
    """Mean recall of the classes (chance is 1 over their number), with its bootstrap over units.

    Few people make intervals too narrow: of releases without any leak, 12 % of the inferences from 24 people and 7 %
    from 60 came out above chance (measured; 2.5 % nominal), so a bare excess from few is no proof.

    `right` [n]: where the attacker was right; `label` int [n]: the true class from 0 on; `unit` [n] is resampled by the
    bootstrap: the speaker, as a rule.
    """
    units, unit_of_row = np.unique(unit, return_inverse=True)
    classes = len(np.unique(label))
    # A resample that lacks a class would flatter a guesser of the other; where units are the classes all lack some.
    needs_all = len(units) > classes

    def balanced(rows: Int64) -> float | None:
        counts = np.bincount(label[rows], minlength=classes)
        if needs_all and (counts == 0).any():
            return None
        hits = np.bincount(label[rows], right[rows], minlength=classes)
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    interval = bootstrap_rows(balanced, unit_of_row, resamples=resamples, seed=seed)
    whole = balanced(np.arange(len(label)))
    return about.with_value(whole, interval, chance=1 / classes, speakers=len(units))


def project(layers: Sequence[Array], name: str, dimensions: int, seed: int) -> Float64:
    """float64 [n, at most `dimensions`]: a layer's updates, projected by a Gaussian matrix that only the seed decides.

    Layers of fewer weights are kept as they are. The matrix is made chunk by chunk and never held.
    """
    flat = np.stack([np.asarray(layer, dtype=np.float64).ravel() for layer in layers])
    if flat.shape[1] <= dimensions:
        return flat
    # The layer's name seeds its matrix (crc32, not hash(): that changes with every process).
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    result = np.zeros((len(flat), dimensions))
    for start in range(0, flat.shape[1], CHUNK):
        part = flat[:, start : start + CHUNK]
        result += part @ rng.normal(size=(part.shape[1], dimensions))
    return np.asarray(result / np.sqrt(dimensions), dtype=np.float64)


# Balanced weights: leaving a person out makes its class the rarer one, which plain fits would guess against.
_BALANCED: dict[str, Any] = {"class_weight": "balanced"}
_logistic = estimator("linear_model.LogisticRegression", C=0.1, max_iter=2000, scaled=True, **_BALANCED)
_forest = estimator("ensemble.RandomForestClassifier", 200, min_samples_leaf=2, n_jobs=1, **_BALANCED)
ATTACKERS: Mapping[str, Callable[[int], Any]] = {"logistic regression": _logistic, "random forest": _forest}
Infer = Callable[..., Inferred]
FAMILIES: Mapping[str, Infer] = {CHOSEN: infer_by_twelve}
"""Attackers of which several are trained, and one is chosen on the people they are trained on."""
CANDIDATES = (
    "all of the twelve networks (ours: depth 1, 2, 3 times width 16, 32, 64, 128) are shown; the best is, in each "
    "fold, the one with the least loss on people held out of the training people"
)
