"""Attacks on what training leaves: membership by a model, and attributes by the updates of sites.

Shadow models, trained by the attacker on known subsets, show how membership looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moretta.shared.audit.inference.classes import infer_from_updates
from moretta.shared.audit.inference.membership_networks import membership_by_twelve
from moretta.shared.audit.inference.twelve_networks import CHOSEN
from moretta.shared.audit.metrics import Trials
from moretta.shared.audit.metrics.intervals import bootstrap_rows, exact_interval
from moretta.shared.audit.metrics.verification import TPR_METRICS, resolution_note, tpr_at_fpr
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Bool, Float32, Float64, Int64, Integers
from moretta.shared.core.device import computing_device
from moretta.shared.study.sections import OptimizerName

if TYPE_CHECKING:
    from torch import nn

    from moretta.shared.models.emotion import EmotionModel

Predict = Callable[[Array], Array]
"""Maps features [n, ...] to class probabilities [n, classes]."""
Train = Callable[[Array, Int64, int], Predict]
"""Trains on features [n, ...], labels [n] and a seed, as the attacked model was trained."""
TARGET = "membership of training clips"
MODELS = 32
"""Shadow models: 16 in and 16 out for every clip."""
MAX_STEPS = 600
"""Gradient steps of one shadow model at most."""
PERMUTATIONS = 399
MIN_SITES = 6
NOTE = (
    "speaker-level: members are clips of the speakers who were trained on, the others are clips of other people, who "
    "are not like members in all else; the intervals draw speakers. Shadow models see half of the speakers, centrally "
    "and without noise"
)
FLOOR = 1e-12
RMIA_GAMMA, RMIA_OFFLINE_A = 2.0, 0.3
MIN_DEVIATION = 1e-3
FEW_MODELS = 32
"""Below so many models on a side one variance serves all examples: each alone is estimated too badly (Carlini 2022)."""


@dataclass(frozen=True)
class Shadows:
    """The output of shadow models on every example."""

    inside: Bool
    """[models, n], whether the example was in the model's training set."""
    probability: Float64
    """[models, n], its probability of the true label."""


def train_shadows(
    train: Train, x: Array, y: Int64, *, models: int = 16, seed: int = 0, group: Integers | None = None
) -> Shadows:
    """Train an even number of shadow models, each on half of the examples, and query them on all.

    They come in pairs on complementary halves, so every example is inside exactly half of them (Carlini et al., IEEE
    S&P 2022). Examples of one `group` [n] (a speaker) are in or out together, for membership of people.
    """
    if models < 2 or models % 2:
        raise ValueError(f"{models} shadow models; an even number of at least 2 is needed")
    inside = membership_halves(len(y), models, seed=seed, group=group)
    seeds = np.random.default_rng(seed + 1).integers(0, 2**31, models)
    outputs = [train(x[rows], y[rows], int(s))(x) for rows, s in zip(inside, seeds, strict=True)]
    return Shadows(inside, np.stack([true_label_probability(output, y) for output in outputs]))


def membership_halves(n: int, models: int, *, seed: int, group: Integers | None = None) -> Bool:
    """bool [models, n]: random halves of the groups in complementary pairs."""
    names, of_example = np.unique(np.arange(n) if group is None else group, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows: list[Bool] = []
    for _ in range(models // 2):
        half = np.zeros(len(names), dtype=np.bool_)
        half[rng.permutation(len(names))[: len(names) // 2]] = True
        rows += [half[of_example], ~half[of_example]]
    return np.stack(rows)


def true_label_probability(probability: Array, y: Int64) -> Float64:
    """float64 [n], the probability of the true label, kept off 0 and 1."""
    chosen = np.asarray(probability, dtype=np.float64)[np.arange(len(y)), y]
    return np.asarray(np.clip(chosen, FLOOR, 1 - FLOOR), dtype=np.float64)


def confidence(probability: Float64) -> Float64:
    """Logit of the probability of the true label, nearly Gaussian over models (Carlini et al., IEEE S&P 2022)."""
    return np.asarray(np.log(probability) - np.log1p(-probability), dtype=np.float64)


def lira_online(probability: Float64, shadows: Shadows) -> Float64:
    """log p(confidence | in) - log p(confidence | out), per-example Gaussians (Carlini et al. 2022, online)."""
    inside_z, inside_deviation = _standardised(probability, shadows, shadows.inside)
    outside_z, outside_deviation = _standardised(probability, shadows, ~shadows.inside)
    return np.asarray((outside_z**2 - inside_z**2) / 2 - np.log(inside_deviation / outside_deviation))


def lira_offline(probability: Float64, shadows: Shadows) -> Float64:
    """How far the confidence lies above the out-models', in standard deviations (the same, offline).

    The paper's 1 - Pr[out > observed] is a monotone function of it, and saturates.
    """
    return _standardised(probability, shadows, ~shadows.inside)[0]


def _standardised(probability: Float64, shadows: Shadows, use: Bool) -> tuple[Float64, Float64]:
    """Confidence by mean and deviation [n] of the models in use, and that deviation.

    The deviation is pooled over examples where models are few.
    """
    seen = confidence(shadows.probability)
    count = use.sum(axis=0)
    mean = (seen * use).sum(axis=0) / count
    squares = ((seen - mean) ** 2 * use).sum(axis=0)
    if count.min() < FEW_MODELS:
        deviation = np.full(len(mean), np.sqrt(squares.sum() / max(1, int((count - 1).sum()))))
    else:
        deviation = np.sqrt(squares / (count - 1))
    deviation = np.maximum(deviation, MIN_DEVIATION)
    return np.asarray((confidence(probability) - mean) / deviation), deviation


def rmia(probability: Float64, shadows: Shadows) -> Float64:
    """Share of all examples z that x dominates: [p(x | model) / p(x)] / [p(z | model) / p(z)] >= gamma, in [0, 1].

    Offline form (Zarifzadeh, Liu and Shokri, ICML 2024), from out-models alone: p(x) = ((1 + a) p_out + 1 - a) / 2,
    with gamma = 2 and a = 0.3. Ties of the share are broken by the ratio itself, scaled below one count.
    """
    out = ~shadows.inside
    p_out = (shadows.probability * out).sum(axis=0) / out.sum(axis=0)
    ratio = probability / (((1 + RMIA_OFFLINE_A) * p_out + 1 - RMIA_OFFLINE_A) / 2)
    dominated = np.searchsorted(np.sort(ratio), ratio / RMIA_GAMMA, side="right")
    return np.asarray((dominated + 0.5 * ratio / ratio.max()) / len(ratio))


METHODS: Mapping[str, Callable[[Float64, Shadows], Float64]] = {
    "lira online": lira_online,
    "lira offline": lira_offline,
    "rmia": rmia,
    CHOSEN: lambda probability, shadows: membership_by_twelve(
        confidence(probability), confidence(shadows.probability), shadows.inside
    ),
    # Log-likelihood of the true label (Yeom et al., CSF 2018): the attacker without shadow models.
    "loss": lambda probability, _: np.asarray(np.log(probability)),
}


def area_under_roc(trials: Trials) -> float:
    """Chance that a mated score exceeds a non-mated one, ties counting half, in [0, 1]."""
    ties = trials.ties
    below = np.cumsum(ties.nonmated) - ties.nonmated / 2
    return float(ties.mated @ below / (ties.mated.sum() * ties.nonmated.sum()))


@dataclass(frozen=True)
class MembershipExamples:
    """Inputs [n, ...], labels [n], speaker numbers [n], and whether they were trained on."""

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
    optimizer: OptimizerName = "sgd"
    max_steps: int | None = MAX_STEPS
    first: Mapping[str, Array] | None = None
    """Weights that training starts from; None starts from the model's initial weights."""

    def __call__(self, x: Array, y: Int64, seed: int) -> Predict:
        """A `Train`: on features [n, ...] and labels [n]."""
        return _predict(self.network(x, y, seed))

    def update(self, start: Mapping[str, Array], x: Array, y: Int64, seed: int) -> dict[str, Array]:
        """Change of the weights `start` by training, by layer: the update of a site with these clips."""
        trained = self.network(x, y, seed, start=start).named_parameters()
        return {name: weight.detach().cpu().numpy() - start[name] for name, weight in trained}

    def network(self, x: Array, y: Int64, seed: int, *, start: Mapping[str, Array] | None = None) -> nn.Module:
        """The trained network. Training starts from the weights `start`, else from `first`."""
        import torch

        from moretta.shared.models.emotion import initial_weights
        from moretta.shared.models.optimizers import make_optimizer, step_down

        network, start = self.model.build(x.shape[1:]), self.first if start is None else start
        if start is None:
            network.load_state_dict(initial_weights(self.model, x, seed=seed))
        else:
            network.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
        device = computing_device()
        network.train().to(device)
        optimizer = make_optimizer(self.optimizer, network.parameters(), self.learning_rate)
        features, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        rng = np.random.default_rng(seed)
        steps = self.epochs * -(-len(y) // self.batch_size)
        for _ in range(steps if self.max_steps is None else min(self.max_steps, steps)):
            rows = torch.from_numpy(rng.permutation(len(y))[: self.batch_size]).to(device)
            step_down(torch.nn.functional.cross_entropy(network(features[rows]), labels[rows]), optimizer)
        return network


def infer_membership(
    attacked: Predict, recipe: Recipe, examples: MembershipExamples, *, about: Result, resamples: int, seed: int
) -> list[Result]:
    """All `METHODS` against one model: AUC, and TPR at 0.1 and 1 % FPR where they can be resolved.

    `recipe` trains shadow models on halves of the speakers. `examples` are clips of people who were trained on, and of
    people who were not. `about` is the result without figures.
    """
    shadows = train_shadows(recipe, examples.x, examples.y, models=MODELS, seed=seed, group=examples.speaker)
    probability = true_label_probability(attacked(examples.x), examples.y)
    about = about.model_copy(update={"speakers": len(np.unique(examples.speaker)), "clips": len(probability)})
    found: list[Result] = []
    for name, method in METHODS.items():
        by_method = about.model_copy(update={"attacker": name})
        found += _rates(method(probability, shadows), examples, by_method, resamples=resamples, seed=seed)
    return found


def _trials(score: Float64, member: Bool) -> Trials | None:
    """Members as mated trials; None if there are only members, or none."""
    return None if member.all() or not member.any() else Trials(score, np.zeros(len(score)), np.where(member, 0, 1))


def _rates(score: Float64, examples: MembershipExamples, about: Result, *, resamples: int, seed: int) -> list[Result]:
    member = examples.member

    def auc(rows: Int64) -> float | None:
        drawn = _trials(score[rows], member[rows])
        return None if drawn is None else area_under_roc(drawn)

    whole = _trials(score, member)
    assert whole is not None
    value = area_under_roc(whole)
    p_value = _by_luck(score, examples, value, seed)
    note = f"{NOTE}. So far apart with a random choice of as many speakers: {p_value:.1%} of the time"
    interval = bootstrap_rows(auc, examples.speaker, resamples=resamples, seed=seed)
    found = [about.with_value(value, interval, metric="auc", chance=0.5, p_value=p_value, note=note)]
    for fpr, metric in TPR_METRICS.items():
        of_rate = about.model_copy(update={"metric": metric, "chance": fpr})
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
        trials = _trials(score, rng.permutation(inside)[of_clip])
        reached += trials is not None and area_under_roc(trials) >= auc
    return (1 + reached) / (1 + PERMUTATIONS)


def too_few(examples: MembershipExamples) -> str:
    """The reason why membership cannot be inferred; empty if it can."""
    inside, outside = (len(np.unique(examples.speaker[own])) for own in (examples.member, ~examples.member))
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

    network.eval().to(computing_device())

    def predict(x: Array) -> Array:
        device = next(network.parameters()).device
        with torch.no_grad():
            logits = (network(part.to(device)).cpu() for part in torch.split(torch.from_numpy(x), 256))
            parts = [torch.softmax(part.double(), 1) for part in logits]
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
