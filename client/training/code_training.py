"""A site's part in training a speaker code: one step of DP-SGD a round, on the ledger before it is made.

Held-out speakers have no part in it: the code must not be trained on those who test the models that read it.
Everything that is released afterwards is encoded with this code, so its cost counts for the server and for the models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from moretta.client.accounting.account import AUDIENCES, Cohort, Loss
from moretta.client.accounting.planning import TrainingPlan
from moretta.client.clips.provenance import Provenance, check_unchanged
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.training.data import numbered, of_corpus
from moretta.client.training.dp_sgd import (
    Noiseless,
    Randomness,
    SeededRandomness,
    SystemRandomness,
    TrainingExamples,
    private_steps,
)
from moretta.client.training.rounds import Array, ResponseStore, RoundRequest, StoredResponse
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import sound_file
from moretta.shared.features.federated_encoder import CLIPPING_NORM, LEARNING_RATE, FederatedEncoder, SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.speaker_code import measured_clip
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.site_training import training_losses, training_step
from moretta.shared.release.anonymizer import site_training_of
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import are_finite
from moretta.shared.study.schema import Study


def train_code(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
    """The same arrays, as one step on this site's clips moves them; see `rounds.train_round`."""
    study = request.study
    _check_request(settings, request)
    training = site_training_of(study)
    assert training is not None, "see `_check_request`"
    code, plan = training.encoder(request.weights), training.plan
    folder = ResponseStore.of(settings.updates, study).folder
    provenance, clips = _clips(settings, study)
    examples, cohort = _examples(settings, study, clips, training, code)
    units = int(examples.owners.max()) + 1
    _pay(settings, request, plan, cohort)
    # Without noise the multiplier is not looked at
    step = training_step(plan) or SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1, unit=plan.unit)
    network = code.network().train()
    private_steps(
        network,
        examples,
        TrainingPlan(step, units, plan.rounds, models=1, most_clips=cohort.most_clips),
        _randomness(settings, request, plan),
        max_grad_norm=CLIPPING_NORM,
        learning_rate=LEARNING_RATE,
        after_step=lambda: None,
    )
    if provenance is not None:
        check_unchanged(provenance, settings)
        provenance.save(folder)
    arrays = code.after(network)
    if not are_finite(*arrays.values()):  # this reveals the noise alone
        raise RunError("a code that is not finite after this round", fix="raise code_epsilon in [voice.options]")
    return StoredResponse(arrays, {"num-examples": units})


def _check_request(settings: SiteSettings, request: RoundRequest) -> None:
    """A study has one response for each round, so another request for the same round is refused."""
    entries = settings.site_budget().since_removal(request.ledger_kind, request.study)
    if any(entry["question"] != request.digest for entry in entries if entry["round"] == request.number):
        raise RefusedError(
            f"round {request.number} of {request.model} requested with other arrays than before",
            expected="the same request",
        )
    rounds = 0 if request.study.site_training is None else request.study.site_training.rounds
    if not 1 <= request.number <= rounds:
        raise RefusedError(
            f"round {request.number} of a code in training", expected=f"1 to {rounds} of a federated one, by the study"
        )


def _clips(settings: SiteSettings, study: Study) -> tuple[Provenance | None, tuple[Clip, ...]]:
    """The site's clips, without those that came after the first round, and the record of them."""
    corpus, clips = site_corpus(settings, study)
    if settings.policy is None:
        return None, clips
    stored = Provenance.load(ResponseStore.of(settings.updates, study).folder)
    provenance = stored or Provenance.take(settings, study, corpus, clips, ("voice",))
    return provenance, tuple(clip for clip in clips if clip.name in provenance.clips)


def _pay(settings: SiteSettings, request: RoundRequest, plan: SiteTrainingPlan, cohort: Cohort) -> None:
    """Put this round on the ledger, if it and all that follow keep within the site's budget."""
    study = request.study
    if settings.policy is not None:
        settings.policy.check_study(study)
        settings.policy.check_clips(cohort.clips, len(cohort.speakers))
    one, planned = (_loss(plan, cohort, rounds=n) for n in (1, plan.rounds - request.number + 1))
    settings.site_budget().pay_once(
        request.ledger_kind,
        one,
        question=request.digest,
        planned=planned,
        study=study.digest(),
        model=request.model,
        round=request.number,
    )


def _loss(plan: SiteTrainingPlan, cohort: Cohort, *, rounds: int) -> Loss:
    losses = training_losses(plan, cohort.most_clips, rounds=rounds)
    return Loss(cohort, AUDIENCES, (losses["clip"],), (losses["speaker"],))


def _randomness(settings: SiteSettings, request: RoundRequest, plan: SiteTrainingPlan) -> Randomness:
    if not plan.epsilon:
        return Noiseless()
    seed = request.seed(settings)
    return SystemRandomness() if seed is None else SeededRandomness(seed)


def _examples(
    settings: SiteSettings, study: Study, clips: Sequence[Clip], training: SiteTraining, code: FederatedEncoder
) -> tuple[TrainingExamples, Cohort]:
    """Measurements of the usable clips of all speakers who are not held out: one row a clip, or one a window."""
    unit, pseudonyms = training.plan.unit, settings.pseudonyms()
    tested = of_corpus(settings, study, clips)
    by_speaker: dict[str, list[tuple[Clip, Array]]] = defaultdict(list)
    for clip in clips:
        speaker = pseudonyms.speaker(clip.speaker)
        rows = None if speaker in tested else _rows(clip, in_windows=training.in_windows)
        if rows is not None:
            by_speaker[speaker].append((clip, rows))
    if not by_speaker:
        raise RefusedError("no clip that a code could be trained on", expected="at least one of a training speaker")
    found = [(speaker, clip, rows) for speaker in sorted(by_speaker) for clip, rows in by_speaker[speaker]]
    normalized = [
        code.normalized(np.concatenate([rows for _, rows in by_speaker[s]]), unit=unit) for s in sorted(by_speaker)
    ]
    lengths = [len(rows) for _, _, rows in found]
    units = [speaker if unit == "speaker" else clip.name for speaker, clip, _ in found]
    labels = np.repeat([study.classes.index(clip.label) for _, clip, _ in found], lengths).astype(np.int64)
    examples = TrainingExamples(
        torch.from_numpy(np.concatenate(normalized)),
        torch.from_numpy(labels),
        np.repeat(numbered(units), lengths),
    )
    return examples, Cohort.of((speaker, pseudonyms.clip(clip.name)) for speaker, clip, _ in found)


def _rows(clip: Clip, *, in_windows: bool) -> Array | None:
    try:
        path = sound_file(clip)
        if path is None:
            return None
        found = path.stat()
        return _measurements(clip, found.st_mtime_ns, found.st_size, in_windows)
    except Exception:  # fail closed: this clip has no part in the code
        return None


@lru_cache(maxsize=4096)  # every round uses the same clips; a few hundred bytes each
def _measurements(clip: Clip, changed: int, size: int, in_windows: bool) -> Array | None:
    from moretta.shared.data.recordings import read_sound

    del changed, size
    sound = read_sound(clip)
    return None if sound is None else measured_clip(check_samples(sound), in_windows=in_windows)
