"""Attacks on what training leaves: membership by a model, and attributes by the updates of sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moretta.shared.audit.inference.classes import infer_from_updates
from moretta.shared.audit.inference.membership import (
    FPRS,
    METHODS,
    Predict,
    area_under_roc,
    train_shadows,
    true_label_probability,
)
from moretta.shared.audit.metrics import Trials, bootstrap_rows
from moretta.shared.audit.metrics.intervals import exact_interval
from moretta.shared.audit.metrics.verification import resolution_note, tpr_at_fpr
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Bool, Float32, Float64, Int64

if TYPE_CHECKING:
    from torch import nn

    from moretta.shared.models.emotion import EmotionModel

TARGET = "membership of training clips"
MODELS = 32
"""Shadow models: 16 in and 16 out for every clip."""
MAX_STEPS = 600
"""Gradient steps of one shadow model at most."""
PERMUTATIONS = 399
MIN_SITES = 6
METRICS = {0.001: "tpr_at_fpr_01pct", 0.01: "tpr_at_fpr_1pct"}
NOTE = (
    "speaker-level: members are clips of the speakers who were trained on, the others are clips of other people, who "
    "are not like members in all else; the intervals draw speakers. Shadow models see half of the speakers, centrally "
    "and without noise"
)


@dataclass(frozen=True)
class MembershipExamples:
    """Inputs float32 [n, ...], labels [n], speaker numbers [n], and whether they were trained on."""

    x: Float32
    y: Int64
    speaker: Int64
    member: Bool

    def some(self, limit: int, seed: int) -> MembershipExamples:
        """At most so many, drawn at random."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.y))[:limit])
        return MembershipExamples(self.x[rows], self.y[rows], self.speaker[rows], self.member[rows])


@dataclass(frozen=True)
class Recipe:
    """How shadow models are trained: as the sites train, but centrally and without noise."""

    model: EmotionModel
    learning_rate: float
    batch_size: int
    epochs: int

    def __call__(self, x: Array, y: Int64, seed: int) -> Predict:
        """Train on features [n, ...] and labels [n]; a `membership.Train`."""
        return _predict(self.network(x, y, seed))

    def network(self, x: Array, y: Int64, seed: int) -> nn.Module:
        """The trained network."""
        import torch
        from torch.nn.functional import cross_entropy

        from moretta.shared.models.emotion import initial_weights

        network = self.model.build(x.shape[1:])
        network.load_state_dict(initial_weights(self.model, x, seed=seed))
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=self.learning_rate)
        features, labels = torch.from_numpy(x), torch.from_numpy(y)
        rng = np.random.default_rng(seed)
        for _ in range(min(MAX_STEPS, self.epochs * -(-len(y) // self.batch_size))):
            rows = torch.from_numpy(rng.permutation(len(y))[: self.batch_size])
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(network(features[rows]), labels[rows]))
            optimizer.step()
        return network


def infer_membership(
    attacked: Predict, recipe: Recipe, examples: MembershipExamples, *, about: Result, resamples: int, seed: int
) -> list[Result]:
    """Every method of `membership` against one model: AUC, and TPR at 0.1 and 1 % FPR where they can be resolved.

    `recipe` trains shadow models on halves of the speakers. `examples` are clips of people who were trained on, and of
    people who were not. `about` is the result without figures.
    """
    shadows = train_shadows(recipe, examples.x, examples.y, models=MODELS, seed=seed, group=examples.speaker)
    probability = true_label_probability(attacked(examples.x), examples.y)
    found: list[Result] = []
    for name, method in METHODS.items():
        by_method = about.model_copy(update={"attacker": name})
        found += _rates(method(probability, shadows), examples, by_method, resamples=resamples, seed=seed)
    return found


def _rates(score: Float64, examples: MembershipExamples, about: Result, *, resamples: int, seed: int) -> list[Result]:
    about = about.model_copy(update={"speakers": len(np.unique(examples.speaker)), "clips": len(score)})
    member = examples.member

    def trials(rows: Int64) -> Trials | None:
        if member[rows].all() or not member[rows].any():
            return None
        return Trials.of_speakers(score[rows], np.zeros(len(rows)), np.where(member[rows], 0, 1))

    def figure(of: Callable[[Trials], float | None]) -> Callable[[Int64], float | None]:
        return lambda rows: None if (drawn := trials(rows)) is None else of(drawn)

    whole = trials(np.arange(len(score)))
    assert whole is not None
    interval = bootstrap_rows(figure(area_under_roc), examples.speaker, resamples=resamples, seed=seed)
    auc = area_under_roc(whole)
    p_value = _by_luck(score, examples, auc, seed)
    note = f"{NOTE}. So far apart with a random choice of as many speakers: {p_value:.1%} of the time"
    found = [about.with_value(auc, interval, metric="auc", chance=0.5, p_value=p_value, note=note)]
    for fpr in FPRS:
        of_rate = about.model_copy(update={"metric": METRICS[fpr], "chance": fpr})
        rate = tpr_at_fpr(whole, fpr)
        if rate is None:
            why = (resolution_note(whole, fpr) or "").replace("non-mated trials", "clips of other people")
            found.append(of_rate.invalidated(why))
        else:
            members = int(member.sum())
            narrow = "the interval counts clips as independent, so it is too narrow"
            found.append(of_rate.with_value(rate, exact_interval(round(rate * members), members), note=narrow))
    return found


def _by_luck(score: Float64, examples: MembershipExamples, auc: float, seed: int) -> float:
    """Permutation test over speakers: how often as many of them, drawn at random, come out as far above the others.

    People differ, and few are held out: an interval that draws speakers cannot tell that from membership, this can.
    """
    _, first, of_clip = np.unique(examples.speaker, return_index=True, return_inverse=True)
    inside = examples.member[first]
    rng = np.random.default_rng(seed)
    reached = 0
    for _ in range(PERMUTATIONS):
        member = rng.permutation(inside)[of_clip]
        trials = Trials.of_speakers(score, np.zeros(len(score)), np.where(member, 0, 1))
        reached += area_under_roc(trials) >= auc
    return (1 + reached) / (1 + PERMUTATIONS)


def too_few(examples: MembershipExamples) -> str:
    """Why membership cannot be inferred; empty if it can."""
    inside = len(np.unique(examples.speaker[examples.member]))
    outside = len(np.unique(examples.speaker[~examples.member]))
    if min(inside, outside) >= 2:
        return ""
    return f"{inside} speakers were trained on and {outside} held out: at least 2 of each are needed"


def predictor(model: EmotionModel, weights: Mapping[str, Array], shape: tuple[int, ...]) -> Predict:
    """An emotion model with these weights, for inputs of this shape."""
    import torch

    network = model.build(shape)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return _predict(network)


def _predict(network: nn.Module) -> Predict:
    import torch

    network.eval()

    def predict(x: Array) -> Array:
        with torch.no_grad():
            parts = [torch.softmax(network(part).double(), 1) for part in torch.split(torch.from_numpy(x), 256)]
        return np.asarray(torch.cat(parts).numpy())

    return predict


def infer_sex(
    updates: Mapping[str, Mapping[str, Array]], sexes: Mapping[str, str], *, about: Result, resamples: int, seed: int
) -> list[Result]:
    """The sex of most training clips of a site from its update, by layer, leaving the site out.

    `updates` are changes of weights by layer, of each site; `sexes` lack sites with as many clips of both; `about` is
    the result without figures.
    """
    sites = sorted(site for site in updates if site in sexes)
    if len(sites) < MIN_SITES:
        reason = f"{len(sites)} sites have an update and mostly speakers of one sex: at least {MIN_SITES} are needed"
        return [about.invalidated(reason, speakers=len(sites))]
    moved = [name for name in sorted(updates[sites[0]]) if any(np.any(updates[site][name]) for site in sites)]
    if not moved:
        return [about.invalidated("no layer was changed by any site")]
    label = np.array([sexes[site] for site in sites])
    kept = [{name: updates[site][name] for name in moved} for site in sites]
    note = "speakers are sites; the sex of a site is that of most of its training clips"
    changes = {"attacker": "logistic regression", "metric": "balanced_accuracy", "note": note}
    about = about.model_copy(update=changes)
    return infer_from_updates(kept, label, np.array(sites), about=about, resamples=resamples, seed=seed)
