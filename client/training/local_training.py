"""A round of one of the study's models: DP-SGD, or plain SGD, on the site's own release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.account import UNITS, Cohort, Loss, Unit
from moretta.client.accounting.budget import DP_SGD_KIND, SiteBudget, levels, spent
from moretta.client.accounting.planning import plan_training
from moretta.client.settings import SiteSettings
from moretta.client.training.data import TrainingSet
from moretta.client.training.dp_sgd import (
    Randomness,
    SeededRandomness,
    SystemRandomness,
    TrainingExamples,
    private_steps,
)
from moretta.client.training.rounds import Array, Metrics, RoundRequest, StoredResponse
from moretta.client.training.training_sets import fusion_set, training_set, whole_cohorts
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model, trained_names
from moretta.shared.privacy.mechanism import Unbounded, from_record
from moretta.shared.privacy.noise import SeededNoise, SystemNoise, on_grid
from moretta.shared.privacy.secure_aggregation import quantised
from moretta.shared.privacy.site_level import changed, clipped_change, plan_site_level
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

PLAIN_KIND = "training"
"""Ledger entries of training without DP-SGD: it reveals no more than the release that it is made on."""
MAX_PROXIMAL = 1e6
_UNKNOWN = Unbounded(why="trained without DP-SGD on what no ledger entry speaks of")


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """The result of one round of local training."""

    weights: dict[str, torch.Tensor]
    loss: float | None
    """Mean training loss; None under DP-SGD, because a loss without noise would be a release of its own."""
    epsilon: float | None
    """Spent so far by DP-SGD of all this site's models of the study, for one unit; None without DP-SGD."""
    noise_multiplier: float
    levels: dict[Unit, float] = field(default_factory=dict)
    """The same at every unit that has a finite figure, whatever the study's unit is."""


def train_model(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
    """Train one round of voice, face or fusion; see `rounds.train_round`."""
    study, kind = request.study, request.kind
    assert kind != "code"
    model = study_model(study, kind)
    _check_request(request, model)
    data = _training_set(settings, request)
    if len(data) == 0:
        raise RefusedError("no training clip of this modality", expected="at least one")
    site_budget = settings.site_budget()
    if settings.policy is not None and study.privacy.dp_sgd:
        after = spent_after_round(site_budget, study, data, question=request.digest, kind=kind)
        settings.policy.check_training(after)
    whole = whole_cohorts(settings, study)
    done = train_locally(
        model,
        checked_weights(model, request.weights, data.features.shape[1:]),
        data,
        study,
        site_budget,
        round_number=request.number,
        seed=request.seed(settings),
        question=request.digest,
        proximal=request.proximal,
        whole=whole if kind == "fusion" else {kind: whole[kind]},
    )
    arrays = {name: np.asarray(tensor) for name, tensor in done.weights.items()}
    if _is_hidden(study):
        arrays = noisy_update(settings, study, kind, request.weights, arrays, round_number=request.number)
    elif not all(np.isfinite(array).all() for array in arrays.values()):  # under DP-SGD this reveals the noise alone
        raise RunError(
            "weights that are not finite after this round", fix="lower learning_rate in [train], or raise epsilon"
        )
    return StoredResponse(arrays, _metrics(study, done, clips=len(data)))


def train_locally(
    model: EmotionModel,
    weights: dict[str, torch.Tensor],
    data: TrainingSet,
    study: Study,
    site_budget: SiteBudget,
    *,
    round_number: int,
    seed: int | None,
    question: str = "",
    proximal: float = 0.0,
    whole: Mapping[ModelKind, Cohort] | None = None,
) -> LocalUpdate:
    """Train one round. The ledger is written before the first step, so that a crash over-counts.

    Args:
        question: digest of the request. A loss that is on the ledger for a response that never left is not written
            again.
        seed: for sampling and noise in simulation; None takes both from the operating system.
        proximal: FedProx' mu (Li et al., MLSys 2020): pulls the weights back to the global ones after each step. It
            looks at no clip, so it costs no budget.
        whole: by modality that the model uses, everybody on whom any of the study's models is trained; None is this
            model's modality and `data`. Without DP-SGD their releases' losses are noted, once.

    Raises:
        BudgetError: the round would exceed the site's budget; nothing is computed or written then.
    """
    randomness: Randomness = SystemRandomness() if seed is None else SeededRandomness(seed)
    network = model.build(data.features.shape[1:])
    network.load_state_dict(weights)
    network.train()
    pull = _Pull(network, study.train.learning_rate * proximal)
    examples = TrainingExamples(
        torch.from_numpy(data.features), torch.from_numpy(data.labels), data.owners(study.privacy.unit)
    )
    if not study.privacy.dp_sgd:
        for modality, cohort in (whole or {model.modality: data.cohort}).items():
            if cohort.clips:
                _note_plain(site_budget, study, f"{modality}/{study.model_of(modality)}", cohort, modality=modality)
        mean = _plain_epochs(network, examples, study, randomness, pull)
        return LocalUpdate(dict(network.state_dict()), mean, None, 0.0)
    privacy = study.privacy
    plan = plan_training(study, data.clips_per_speaker, model.modality)
    site_budget.pay_once(
        DP_SGD_KIND,
        plan.loss(data.cohort),
        question=question,
        study=study.digest(),
        model=f"{model.modality}/{model.name}",
        round=round_number,
        unit=privacy.unit,
        delta=privacy.delta,
        max_grad_norm=privacy.max_grad_norm,
    )
    private_steps(
        network,
        examples,
        plan,
        randomness,
        max_grad_norm=privacy.max_grad_norm,
        learning_rate=study.train.learning_rate,
        after_step=pull,
        clipping=privacy.clipping,
    )
    ledger = site_budget.ledger
    weights = dict(network.state_dict())
    return LocalUpdate(weights, None, spent(ledger, study), plan.round.noise_multiplier, levels(ledger, study))


def spent_after_round(
    site_budget: SiteBudget, study: Study, data: TrainingSet, *, question: str = "", kind: ModelKind | None = None
) -> float:
    """The result of `spent` after one more round, before it is trained; the arguments are those of the round."""
    plan = plan_training(study, data.clips_per_speaker, kind)
    paid = site_budget.is_paid(DP_SGD_KIND, question, plan.loss(data.cohort))
    return spent(site_budget.ledger, study, planned=[] if paid else [plan.round], kind=kind)


def noisy_update(
    settings: SiteSettings,
    study: Study,
    kind: ModelKind,
    sent: dict[str, Array],
    update: dict[str, Array],
    *,
    round_number: int,
) -> dict[str, Array]:
    """An update as it leaves the site where a study hides it in a sum: clipped, with the site's share of the noise.

    The share hides an update little. All shares together hide it as the study says, so that the sum of the updates may
    be revealed and no single one. What training did not change is as it was sent.

    Args:
        settings: decide where the noise comes from.
        study: asks for the distributed form, for secure aggregation, or for both.
        kind: of the model.
        sent: the global weights.
        update: what the site's training made of them.
        round_number: of the round.

    Returns:
        The weights, or, under secure aggregation, their change in whole numbers.
    """
    trained = trained_names(study_model(study, kind), sent)
    change = clipped_change(sent, update, trained=trained, norm=study.aggregation.clipping_norm)
    plan = plan_site_level(study)
    if plan is not None:
        seed = settings.simulated_seed
        seeded = () if seed is None else (seed, "site-level noise", settings.name, kind, round_number)
        noise = SeededNoise(*seeded) if seeded else SystemNoise()
        change = {name: array + noise.private_normal(plan.share, array.shape) for name, array in change.items()}
    if study.aggregation.secure:
        return {**quantised(change, study)}
    assert plan is not None  # the study asks for one of the two
    return changed(sent, {name: on_grid(array, plan.share) for name, array in change.items()})


def _check_request(request: RoundRequest, model: EmotionModel) -> None:
    """Refuse impossible numbers before a clip is looked at: the error depends on what was sent alone."""
    study = request.study
    if not 1 <= request.number <= study.train.rounds:
        raise RefusedError(f"round {request.number} of training", expected=f"1 to {study.train.rounds}, by the study")
    if not 0 <= request.proximal <= MAX_PROXIMAL:  # false for NaN
        raise RefusedError(f"a proximal mu of {request.proximal}", expected=f"0 to {MAX_PROXIMAL:g}")
    checked_weights(model, request.weights)
    for modality, sent in request.models.items():
        checked_weights(study_model(study, modality), sent)


def _training_set(settings: SiteSettings, request: RoundRequest) -> TrainingSet:
    if request.kind != "fusion":
        return training_set(settings, request.study, request.kind)  # type: ignore[arg-type]
    seed = request.seed(settings)
    chances = SystemNoise() if seed is None else SeededNoise(seed, "dropout")
    return fusion_set(settings, request.study, request.models, chances)


def _is_hidden(study: Study) -> bool:
    """Whether a single update is never revealed."""
    return study.aggregation.dp == "distributed" or study.aggregation.secure


def _metrics(study: Study, done: LocalUpdate, *, clips: int) -> Metrics:
    """Metrics of an update: where it is hidden in a sum, none that come of the clips themselves."""
    hidden = _is_hidden(study)
    metrics: Metrics = {} if study.aggregation.secure else {"num-examples": 1 if hidden else clips}
    if done.loss is not None and not hidden:
        metrics["loss"] = done.loss
    if done.epsilon is not None:
        metrics |= {"epsilon": done.epsilon, **{f"epsilon-{unit}": value for unit, value in done.levels.items()}}
        metrics |= {} if hidden else {"noise-multiplier": done.noise_multiplier}  # it reveals how many clips there are
    return metrics


def _note_plain(site_budget: SiteBudget, study: Study, model: str, cohort: Cohort, *, modality: str) -> None:
    """All rounds without DP-SGD together, of every model, are one function of the releases: their losses, once."""
    ledger = site_budget.ledger
    if ledger.entries(PLAIN_KIND, study=study.digest(), model=model):
        return
    releases = ledger.entries("release", study=study.digest(), modality=modality)
    losses = releases[-1]["losses"] if releases else {}
    clip, speaker = (tuple(map(from_record, losses.get(unit, [_UNKNOWN.record()]))) for unit in UNITS)
    site_budget.spend(PLAIN_KIND, Loss(cohort, ("model",), clip, speaker), study=study.digest(), model=model)


class _Pull:
    """The proximal step: moves every parameter a share of the way back to where it started."""

    def __init__(self, network: torch.nn.Module, share: float) -> None:
        self._pairs = [(p, p.detach().clone()) for p in network.parameters()] if share else []
        self._share = share

    def __call__(self) -> None:
        for parameter, start in self._pairs:
            parameter.data.lerp_(start, min(self._share, 1.0))


def _plain_epochs(
    network: torch.nn.Module, examples: TrainingExamples, study: Study, randomness: Randomness, pull: _Pull
) -> float:
    optimizer = torch.optim.SGD(network.parameters(), lr=study.train.learning_rate)
    size = len(examples.labels)
    losses = []
    for _ in range(study.train.local_epochs):
        for batch in torch.split(randomness.order(size), min(study.train.batch_size, size)):
            optimizer.zero_grad()
            loss = cross_entropy(network(examples.features[batch]), examples.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pull()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))
