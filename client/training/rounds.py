"""One round of local training: asked for once it is trained, asked for again it is answered alike."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from moretta.client.settings import SiteSettings
from moretta.client.training.local_training import (
    LEDGER_KIND,
    LocalUpdate,
    TrainingSet,
    spent_after_round,
    train_locally,
)
from moretta.client.training.release_predictions import Models
from moretta.client.training.response_ledger import note_response
from moretta.client.training.training_sets import fusion_set, training_set, whole_cohorts
from moretta.client.training.update_noise import noisy_update
from moretta.client.training.update_store import Array, Metrics, StoredResponse, UpdateStore, question
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.messages import wire
from moretta.shared.models.emotion import emotion_model
from moretta.shared.models.global_weights import checked_weights
from moretta.shared.privacy.noise import SeededNoise, SystemNoise
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from flwr.app import RecordDict

MAX_PROXIMAL = 1e6


def round_of_training(
    settings: SiteSettings,
    study: Study,
    kind: ModelKind,
    weights: dict[str, Array],
    *,
    round_number: int,
    proximal: float = 0.0,
    beside: Models | None = None,
) -> StoredResponse:
    """The site's update; the ledger has its loss before the first step.

    A site that died over the round trains it anew and pays once: its first answer never left, since an answer is kept
    and noted on the ledger before it may. One question is answered at a time, so that none is paid for by another's.

    Args:
        settings: of the site.
        study: which.
        kind: the model.
        weights: its global ones.
        round_number: from 1.
        proximal: FedProx' mu.
        beside: for the fusion, the finished voice and face models, whose opinions it weighs.

    Raises:
        RefusedError: the study has no such round, what was sent cannot be its models', or there is nothing to train on.
        PolicyError: the ledger would say more than the site's policy allows; nothing is computed.
    """
    store = UpdateStore.of(settings.updates, study)
    request_digest = question(study, kind, round_number, weights, proximal, beside=beside)
    with store.alone():
        update = store.find(kind, request_digest)
        if update is None:
            if not 1 <= round_number <= study.train.rounds:
                raise RefusedError(
                    f"round {round_number} of training", expected=f"1 to {study.train.rounds}, by the study"
                )
            _check_question(study, kind, weights, proximal, beside or {})
            training = _training_set(settings, study, kind, beside or {}, round_number)
            update = _trained(
                settings,
                study,
                kind,
                weights,
                training,
                round_number=round_number,
                proximal=proximal,
                request_digest=request_digest,
            )
            store.keep(kind, request_digest, update)
        model = f"{kind}/{study.model_of(kind)}"
        note_response(settings.site_budget().ledger, LEDGER_KIND, study, model, request_digest)
    return update


def _check_question(study: Study, kind: ModelKind, weights: dict[str, Array], proximal: float, beside: Models) -> None:
    """Refuse numbers that cannot be, before a clip is looked at: the error depends on what was sent alone."""
    if not 0 <= proximal <= MAX_PROXIMAL:  # false for NaN
        raise RefusedError(f"a proximal mu of {proximal}", expected=f"0 to {MAX_PROXIMAL:g}")
    checked_weights(emotion_model(kind, study.model_of(kind)), weights)
    for modality, sent in beside.items():
        checked_weights(emotion_model(modality, study.model_of(modality)), sent)


def models_beside(content: RecordDict, study: Study, kind: ModelKind) -> Models | None:
    """The finished models that a question about the fusion carries."""
    return wire.models_of(content, study.modalities) if kind == "fusion" else None


def _training_set(
    settings: SiteSettings, study: Study, kind: ModelKind, beside: Models, round_number: int
) -> TrainingSet:
    if kind != "fusion":
        return training_set(settings, study, kind)
    seed = _round_seed(settings, kind, round_number)
    return fusion_set(settings, study, beside, SystemNoise() if seed is None else SeededNoise(seed, "dropout"))


def _trained(
    settings: SiteSettings,
    study: Study,
    kind: ModelKind,
    weights: dict[str, Array],
    training: TrainingSet,
    *,
    round_number: int,
    proximal: float,
    request_digest: str,
) -> StoredResponse:
    if len(training) == 0:
        raise RefusedError("no training clip of this modality", expected="at least one")
    site_budget = settings.site_budget()
    if settings.policy is not None and study.privacy.dp_sgd:
        settings.policy.check_training(
            spent_after_round(site_budget.ledger, study, training, question=request_digest, kind=kind)
        )
    whole = whole_cohorts(settings, study)
    done = train_locally(
        emotion_model(kind, study.model_of(kind)),
        checked_weights(emotion_model(kind, study.model_of(kind)), weights, training.features.shape[1:]),
        training,
        study,
        site_budget,
        round_number=round_number,
        seed=_round_seed(settings, kind, round_number),
        question=request_digest,
        proximal=proximal,
        whole=whole if kind == "fusion" else {kind: whole[kind]},
    )
    arrays = {name: np.asarray(tensor) for name, tensor in done.weights.items()}
    if study.aggregation.dp == "distributed" or study.aggregation.secure:
        arrays = noisy_update(settings, study, kind, weights, arrays, round_number=round_number)
    elif not all(np.isfinite(array).all() for array in arrays.values()):  # under DP-SGD this tells of the noise alone
        raise RunError(
            "weights that are not finite after this round", fix="lower learning_rate in [train], or raise epsilon"
        )
    return StoredResponse(arrays, _metrics(study, done, clips=len(training)))


def _metrics(study: Study, done: LocalUpdate, *, clips: int) -> Metrics:
    """What is told beside an update: where it is hidden in a sum, nothing that comes of the clips themselves."""
    hidden = study.aggregation.dp == "distributed" or study.aggregation.secure
    metrics: Metrics = {} if study.aggregation.secure else {"num-examples": 1 if hidden else clips}
    if done.loss is not None and not hidden:
        metrics["loss"] = done.loss
    if done.epsilon is not None:
        metrics |= {"epsilon": done.epsilon, **{f"epsilon-{unit}": value for unit, value in done.levels.items()}}
        metrics |= {} if hidden else {"noise-multiplier": done.noise_multiplier}  # it tells how many clips there are
    return metrics


def _round_seed(settings: SiteSettings, kind: ModelKind, round_number: int) -> int | None:
    if settings.simulated_seed is None:
        return None
    text = f"{settings.simulated_seed} {settings.name} {kind} {round_number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
