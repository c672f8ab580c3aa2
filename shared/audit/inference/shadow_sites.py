"""The sex of a site's speakers from its update, by an attacker who has trained shadow sites of other people.

Feng, Hashemi, Hebbar, Annavaram and Narayanan, "Attribute Inference Attack of Speech Emotion Recognition in Federated
Learning Settings" (arXiv 2112.13416, 2021): whoever sees the updates, and is not kept from it by secure aggregation,
trains on people whose sex is known as sites do, and learns how the sex shows in an update. `infer_sex` needs the sex of
the other sites instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.crossval import estimator
from moretta.shared.audit.inference.classes import ALL_LAYERS, Update, balanced_accuracy, project
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Float32, Float64, Int64, unit_rows

MAX_SHADOWS = 240
"""Shadow sites in all, at most."""
MIN_SHADOWS = 2
"""Shadow sites of a person: the second one is made of other draws of the same clips."""
MIN_PEOPLE = 3
"""Fewest people of each sex outside of any attacked site."""
FOLDS = 5
DIMENSIONS = 128
ATTACKER = "shadow sites"
NOTE = (
    "speakers are sites; each shadow site is one person, held out of training or of another site, by released clips; "
    "shadow sites start from the final weights and add no noise"
)
# Not standardised: where noise hides an update, what matters is how far classes are apart by its spread.
_linear = estimator("linear_model.LogisticRegression", C=0.1, max_iter=2000, class_weight="balanced")
Local = Callable[[Array, Int64, int], Update]
"""Trains as a site does on features [n, ...], labels [n] and a seed, and returns its update."""


@dataclass(frozen=True)
class LabelledClips:
    """Released clips as the model sees them, of people whose sex is known."""

    x: Float32
    """[n, ...]"""
    y: Int64
    """[n], emotions."""
    speaker: Array
    sex: Array
    site: Array
    """[n], of text."""
    held_out: Array
    """bool [n], of people whom no site has trained on."""


def infer_by_shadows(
    updates: Mapping[str, Update],
    sexes: Mapping[str, str],
    clips: LabelledClips,
    local: Local,
    *,
    about: Result,
    resamples: int,
    seed: int,
) -> list[Result]:
    """Balanced accuracy over sites, by layer and of all layers, where shadows contain nobody of the site.

    Every person is some shadow sites, each with as many clips as a site has, drawn with replacement. Sites are asked
    about in folds; a fold's own people are in none of the shadows its attacker is trained on, unless they are held out
    of training. Shadows and updates are centred each by their own mean and brought to the spread of the updates: so
    noise that is added to updates weighs what it hides.

    Args:
        updates: changes of weights by layer, of each site.
        sexes: of most training clips of each site; sites that have as many of both are not in it.
    """
    sites = sorted(site for site in updates if site in sexes)
    label = np.array([sexes[site] for site in sites])
    names, y = np.unique(label, return_inverse=True)
    about = about.model_copy(update={"attacker": ATTACKER, "metric": "balanced_accuracy"})
    if len(names) < 2 or np.bincount(y).min() < 2:
        held = ", ".join(f"{n} {name}" for name, n in zip(names, np.bincount(y), strict=True)) or "none"
        reason = f"needs an update of two sites of each sex, there are: {held}"
        return [about.invalidated(reason, speakers=len(sites))]
    folds = _folds(y, seed)
    of_site = dict(zip(sites, folds, strict=True))
    people, first = np.unique(clips.speaker, return_index=True)
    outside = [
        [np.sum((clips.sex[first] == name) & _may_show(clips, of_site, fold)[first]) for name in names]
        for fold in np.unique(folds)
    ]
    if np.min(outside) < MIN_PEOPLE:
        reason = f"needs {MIN_PEOPLE} other people of each sex for shadow sites, there are {int(np.min(outside))}"
        return [about.invalidated(reason, speakers=len(sites))]
    each = max(MIN_SHADOWS, MAX_SHADOWS // len(people))
    size = int(np.median(np.unique(clips.site[~clips.held_out], return_counts=True)[1]))
    rng, shadows, origin = np.random.default_rng(seed), list[Update](), list[int]()
    for person in people:
        own = np.flatnonzero(clips.speaker == person)
        for _ in range(each):
            rows = rng.choice(own, size)
            shadows.append(local(clips.x[rows], clips.y[rows], int(rng.integers(2**31))))
            origin.append(int(own[0]))
    source = np.array(origin)
    sex_of_shadow = np.searchsorted(names, clips.sex[source])
    seen = {fold: _may_show(clips, of_site, fold)[source] for fold in np.unique(folds).tolist()}
    found: list[Result] = []
    for layer, (shadow, update) in _layers(shadows, [updates[site] for site in sites], seed).items():
        predicted = np.zeros_like(y)
        for fold, use in seen.items():
            model = _linear(seed).fit(shadow[use], sex_of_shadow[use])
            predicted[folds == fold] = model.predict(update[folds == fold])
        of_layer = about.model_copy(update={"layer": layer, "note": NOTE})
        found.append(balanced_accuracy(of_layer, predicted == y, y, np.array(sites), resamples=resamples, seed=seed))
    return found


def _folds(y: Int64, seed: int) -> Int64:
    """The fold of each site: every fold has some of each sex, as far as there are."""
    folds, rng = np.zeros(len(y), np.int64), np.random.default_rng(seed)
    for name in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == name))
        folds[rows] = np.arange(len(rows)) % min(FOLDS, len(rows))
    return folds


def _may_show(clips: LabelledClips, fold_of_site: Mapping[str, int], fold: int) -> Array:
    """bool [n]: clips of people who tell an attacker something of sites of this fold, and were not trained on there."""
    same = np.array([fold_of_site.get(str(site)) == fold for site in clips.site])
    return np.asarray(clips.held_out | ~same)


def _layers(shadows: Sequence[Update], updates: Sequence[Update], seed: int) -> dict[str, tuple[Float64, Float64]]:
    """Directions of shadows and of updates, by layer and of all layers; layers that nobody changed are left out."""
    made: dict[str, tuple[Float64, Float64]] = {}
    for name in sorted(shadows[0].keys() & updates[0].keys()):
        if not any(np.any(update[name]) for update in updates):
            continue
        sides = [unit_rows(project([u[name] for u in side], name, DIMENSIONS, seed)) for side in (shadows, updates)]
        spread = np.maximum(sides[1].std(axis=0), 1e-6)
        made[name] = ((sides[0] - sides[0].mean(axis=0)) / spread, (sides[1] - sides[1].mean(axis=0)) / spread)
    made[ALL_LAYERS] = tuple(np.concatenate(side, axis=1) for side in zip(*made.values(), strict=True))  # type: ignore[assignment]
    return made
