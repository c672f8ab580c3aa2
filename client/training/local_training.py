"""A round of one of the study's models: DP-SGD, or plain SGD, on the site's own release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.account import UNITS, Cohort, Loss, Unit, losses_of
from moretta.client.accounting.budget import DP_SGD_KIND, SiteBudget, levels, spent
from moretta.client.accounting.planning import plan_training
from moretta.client.settings import SiteSettings
from moretta.client.training.data import TrainingSet, fusion_set, training_set, whole_cohorts
from moretta.client.training.dp_sgd import Randomness, SeededRandomness, TrainingExamples, private_steps
from moretta.client.training.rounds import Metrics, RoundRequest, StoredResponse
from moretta.shared.core.array_types import Array
from moretta.shared.core.device import resolve_device
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.models.emotion import EmotionModel, checked_weights, study_model, trained_names
from moretta.shared.models.optimizers import make_optimizer, step_down
from moretta.shared.privacy.mechanism import Unbounded
from moretta.shared.privacy.noise import SeededNoise, SystemNoise, on_grid
from moretta.shared.privacy.site_updates import changed, clipped_change, plan_site_level, quantised
from moretta.shared.study.public_arrays import are_finite
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

PLAIN_KIND = "training"
"""Ledger entries of training without DP-SGD: it reveals no more than the release that it is made on."""
MAX_PROXIMAL = 1e6
_CPU = torch.device("cpu")
_UNKNOWN = Unbounded(why="trained without DP-SGD on what no ledger entry speaks of")


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """The result of one round of local training."""

    weights: dict[str, torch.Tensor]
    loss: float | None
    """Mean training loss; None under DP-SGD, because a loss without noise would be a release of its own."""
    epsilon: float | None = None
    """Spent so far by DP-SGD of all this site's models of the study, for one unit; None without DP-SGD."""
    noise_multiplier: float = 0.0
    levels: dict[Unit, float] = field(default_factory=dict)
    """Epsilon for the unit, clip or speaker, that is not the study's, if it is finite."""


def train_model(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
    """Train one round of voice, face or fusion; see `rounds.train_round`."""
    study, kind, seed = request.study, request.kind, request.seed(settings)
    assert kind != "code"
    model = study_model(study, kind)
    # Impossible numbers are refused before a clip is looked at: the error depends on what was sent alone
    if not 1 <= request.number <= study.train.rounds:
        raise RefusedError(f"round {request.number} of training", expected=f"1 to {study.train.rounds}, by the study")
    if not 0 <= request.proximal <= MAX_PROXIMAL:  # false for NaN
        raise RefusedError(f"a proximal mu of {request.proximal}", expected=f"0 to {MAX_PROXIMAL:g}")
    checked_weights(model, request.weights)
    for modality, sent in request.models.items():
        checked_weights(study_model(study, modality), sent)
    if kind == "fusion":
        data = fusion_set(
            settings, study, request.models, SystemNoise() if seed is None else SeededNoise(seed, "dropout")
        )
    else:
        data = training_set(settings, study, kind)
    if len(data) == 0:
        raise RefusedError("no training clip of this modality", expected="at least one")
    site_budget = settings.site_budget()
    if settings.policy is not None and study.privacy.dp_sgd:
        plan = plan_training(study, data.cohort.clips_per_speaker, kind)
        paid = site_budget.is_paid(DP_SGD_KIND, request.digest, plan.loss(data.cohort))
        after = spent(site_budget.ledger, study, planned=[] if paid else [plan.round], kind=kind)
        settings.policy.check_training(after)
    whole = {} if study.privacy.dp_sgd else whole_cohorts(settings, study)
    done = train_locally(
        model,
        checked_weights(model, request.weights, data.features.shape[1:]),
        data,
        study,
        site_budget,
        round_number=request.number,
        seed=seed,
        question=request.digest,
        proximal=request.proximal,
        whole=whole if kind == "fusion" or not whole else {kind: whole[kind]},
        device=resolve_device(settings.device),
    )
    arrays = {name: np.asarray(tensor) for name, tensor in done.weights.items()}
    secure, hidden = study.aggregation.secure, study.aggregation.secure or study.aggregation.dp == "distributed"
    if hidden:  # a single update is never revealed
        arrays = noisy_update(settings, study, kind, request.weights, arrays, round_number=request.number)
    elif not are_finite(*arrays.values()):  # under DP-SGD this reveals the noise alone
        fix = "lower learning_rate in [train], or raise epsilon"
        raise RunError("weights that are not finite after this round", fix=fix)
    # Of an update that is hidden in a sum no metric comes of the clips themselves
    metrics: Metrics = {} if secure else {"num-examples": 1 if hidden else len(data)}
    if done.loss is not None and not hidden:
        metrics["loss"] = done.loss
    if done.epsilon is not None:
        metrics |= {"epsilon": done.epsilon, **{f"epsilon-{unit}": value for unit, value in done.levels.items()}}
        metrics |= {} if hidden else {"noise-multiplier": done.noise_multiplier}  # it reveals how many clips there are
    return StoredResponse(arrays, metrics)


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
    device: torch.device = _CPU,
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
        device: where the steps are made. Noise and samples are drawn on the CPU all the same.

    Raises:
        BudgetError: the round would exceed the site's budget; nothing is computed or written then.
    """
    randomness = Randomness() if seed is None else SeededRandomness(seed)
    network = model.build(data.features.shape[1:])
    network.load_state_dict(weights)
    network.train().to(device)
    privacy, ledger, share = study.privacy, site_budget.ledger, min(study.train.learning_rate * proximal, 1.0)
    starts = [(p, p.detach().clone()) for p in network.parameters()] if share else []

    def pull() -> None:
        """The proximal step: moves every parameter a share of the way back to where it started."""
        for parameter, start in starts:
            parameter.data.lerp_(start, share)

    features, labels = (torch.from_numpy(array).to(device) for array in (data.features, data.labels))
    examples = TrainingExamples(features, labels, data.owners(privacy.unit))
    if not privacy.dp_sgd:
        for modality, cohort in (whole or {model.modality: data.cohort}).items():
            if cohort.clips:
                _note_plain(site_budget, study, modality, cohort)
        mean = _plain_epochs(network, examples, study, randomness, pull)
        return LocalUpdate(dict(network.cpu().state_dict()), mean)
    plan = plan_training(study, data.cohort.clips_per_speaker, model.modality)
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
        optimizer=study.train.optimizer,
        after_step=pull,
    )
    noise = plan.round.noise_multiplier
    return LocalUpdate(dict(network.cpu().state_dict()), None, spent(ledger, study), noise, levels(ledger, study))


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
    be revealed and no single one. Arrays that training did not change are as they were sent.

    `sent` are the global weights, `update` is what the site's training made of them. Returns the weights, or, under
    secure aggregation, their change in whole numbers.
    """
    trained = trained_names(study_model(study, kind), sent)
    change = clipped_change(sent, update, trained=trained, norm=study.aggregation.clipping_norm)
    plan, seed = plan_site_level(study), settings.simulated_seed
    if plan is not None:
        tag = ("site-level noise", settings.name, kind, round_number)
        noise = SystemNoise() if seed is None else SeededNoise(seed, *tag)
        change = {name: array + noise.private_normal(plan.share, array.shape) for name, array in change.items()}
    if study.aggregation.secure:
        return {**quantised(change, study)}
    assert plan is not None  # the study requests one of the two
    return changed(sent, {name: on_grid(array, plan.share) for name, array in change.items()})


def _note_plain(site_budget: SiteBudget, study: Study, kind: ModelKind, cohort: Cohort) -> None:
    """All rounds without DP-SGD together, of every model, are one function of the releases: their losses, once."""
    ledger, model = site_budget.ledger, f"{kind}/{study.model_of(kind)}"
    if ledger.entries(PLAIN_KIND, study=study.digest(), model=model):
        return
    releases = ledger.entries("release", study=study.digest(), modality=kind)
    unknown: dict[str, Any] = {unit: [_UNKNOWN.record()] for unit in UNITS}
    losses = losses_of({**unknown, **releases[-1].get("losses", {})} if releases else unknown)
    site_budget.spend(PLAIN_KIND, Loss(cohort, ("model",), losses), study=study.digest(), model=model)


def _plain_epochs(
    network: torch.nn.Module,
    examples: TrainingExamples,
    study: Study,
    randomness: Randomness,
    after_step: Callable[[], None],
) -> float:
    optimizer = make_optimizer(study.train.optimizer, network.parameters(), study.train.learning_rate)
    size, losses = len(examples.labels), []
    for _ in range(study.train.local_epochs):
        for batch in torch.split(randomness.order(size), min(study.train.batch_size, size)):
            loss = cross_entropy(network(examples.features[batch]), examples.labels[batch])
            step_down(loss, optimizer)
            after_step()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))
