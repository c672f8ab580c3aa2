"""A site's part in training an encoder of voices or faces: one step of DP-SGD a round, on the ledger before it is made.

Held-out speakers have no part in it: the code must not be trained on those who test the models that read it.
Everything that is released afterwards is encoded with this code, so its cost counts for the server and for the models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from moretta.client.accounting.account import AUDIENCES, Cohort, Loss
from moretta.client.accounting.planning import TrainingPlan
from moretta.client.clips.provenance import Provenance, check_unchanged
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.training.data import numbered, of_released
from moretta.client.training.dp_sgd import Noiseless, Randomness, SeededRandomness, TrainingExamples, private_steps
from moretta.client.training.rounds import RoundRequest, StoredResponse
from moretta.shared.core.array_types import Array
from moretta.shared.core.device import resolve_device
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.data.clips import Clip, Speaker
from moretta.shared.features.federated_encoder import CLIPPING_NORM, FederatedEncoder, Measure, Unit
from moretta.shared.privacy.accounting import training_losses, training_step
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.release.anonymizer import site_training_of
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import are_finite
from moretta.shared.study.schema import Study


def train_code(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
    """The arrays of the request after one step on this site's clips; see `rounds.train_round`."""
    study, number, site_budget = request.study, request.number, settings.site_budget()
    # A study has one response for each round, so another request for the same round is refused
    entries = site_budget.since_removal(request.ledger_kind, study)
    if any(entry["question"] != request.digest for entry in entries if entry["round"] == number):
        found = f"round {number} of {request.model} requested with other arrays than before"
        raise RefusedError(found, expected="the same request")
    training = site_training_of(study)
    rounds = 0 if training is None else training.plan.rounds
    if training is None or not 1 <= number <= rounds:
        expected = f"1 to {rounds} of a federated one, by the study"
        raise RefusedError(f"round {number} of a code in training", expected=expected)
    code, plan, folder = training.encoder(request.weights, number), training.plan, settings.updates_of(study)
    measure = training.measure
    provenance, (corpus, clips) = None, site_corpus(settings, study)
    if settings.policy is not None:  # clips that came after the first round have no part in the code
        provenance = Provenance.load(folder) or Provenance.take(settings, study, corpus, clips, training.modalities)
        clips = tuple(clip for clip in clips if clip.name in provenance.clips)
    examples, cohort = _examples(settings, study, clips, measure, code, unit=plan.unit, speakers=corpus.speakers)
    units = int(examples.owners.max()) + 1
    if settings.policy is not None:
        settings.policy.check_study(study)
        settings.policy.check_clips(cohort.clips, len(cohort.speakers))
    one, planned = (
        Loss(cohort, AUDIENCES, training_losses(plan, cohort.most_clips, rounds=n)) for n in (1, rounds - number + 1)
    )
    site_budget.pay_once(
        request.ledger_kind,
        one,
        question=request.digest,
        planned=planned,
        study=study.digest(),
        model=request.model,
        round=number,
    )
    # Without noise the multiplier is not looked at
    step = training_step(plan) or SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1, unit=plan.unit)
    device = resolve_device(settings.device)
    network = code.network().train().to(device)
    private_steps(
        network,
        replace(examples, features=examples.features.to(device), labels=examples.labels.to(device)),
        TrainingPlan(step, units, rounds, models=1, most_clips=cohort.most_clips),
        _randomness(settings, request, plan),
        max_grad_norm=CLIPPING_NORM,
        learning_rate=training.learning_rate,
        losses=code.losses,
    )
    if provenance is not None:
        check_unchanged(provenance, settings)
        provenance.save(folder)
    arrays = code.after(network.cpu())
    if not are_finite(*arrays.values()):  # this reveals the noise alone
        raise RunError(
            "a code that is not finite after this round",
            fix=f"raise code_epsilon in [{training.modalities[0]}.options]",
        )
    return StoredResponse(arrays, {"num-examples": units})


def _randomness(settings: SiteSettings, request: RoundRequest, plan: SiteTrainingPlan) -> Randomness:
    if not plan.epsilon:
        return Noiseless()
    seed = request.seed(settings)
    return Randomness() if seed is None else SeededRandomness(seed)


def _examples(
    settings: SiteSettings,
    study: Study,
    clips: Sequence[Clip],
    measure: Measure,
    code: FederatedEncoder,
    *,
    unit: Unit,
    speakers: Mapping[SpeakerId, Speaker],
) -> tuple[TrainingExamples, Cohort]:
    """Measurements of the usable clips of all speakers who are not held out: one row a clip, or one a window."""
    key = settings.pseudonyms()
    tested = of_released(settings, study, frozenset(key.speaker(clip.speaker) for clip in clips))
    by_speaker: dict[str, list[tuple[Clip, Array]]] = defaultdict(list)
    for clip in clips:
        speaker = key.speaker(clip.speaker)
        is_used = speaker not in tested and code.is_usable(speakers[clip.speaker].sex)
        rows = _rows(clip, measure) if is_used else None
        if rows is not None:
            by_speaker[speaker].append((clip, rows))
    if not by_speaker:
        raise RefusedError(
            "no clip that a code could be trained on",
            expected="at least one of a training speaker, of known sex where the code is trained against it",
            fix="complete the table of speakers, or leave this site out of the study",
        )
    found = [(speaker, clip, rows) for speaker in sorted(by_speaker) for clip, rows in by_speaker[speaker]]
    normalized = [
        code.normalized(np.concatenate([rows for _, rows in by_speaker[s]]), unit=unit) for s in sorted(by_speaker)
    ]
    lengths = [len(rows) for _, _, rows in found]
    units = [speaker if unit == "speaker" else clip.name for speaker, clip, _ in found]
    labels = np.repeat([study.classes.index(clip.label) for _, clip, _ in found], lengths).astype(np.int64)
    owners = np.repeat(numbered(units), lengths)
    places, sexes = np.concatenate(normalized), [speakers[clip.speaker].sex for _, clip, rows in found for _ in rows]
    examples = TrainingExamples(torch.from_numpy(places), code.targets(places, labels, sexes), owners)
    return examples, Cohort.of((speaker, key.clip(clip.name)) for speaker, clip, _ in found)


def _rows(clip: Clip, measure: Measure) -> Array | None:
    try:
        found = [path.stat() for path in clip.files]
        return _measured(clip, tuple((one.st_mtime_ns, one.st_size) for one in found), measure)
    except Exception:  # fail closed: this clip has no part in the code
        return None


@lru_cache(maxsize=4096)  # every round uses the same clips; a few hundred bytes each, or some ten thousand of a face
def _measured(clip: Clip, files: tuple[tuple[int, int], ...], measure: Measure) -> Array | None:
    del files
    return measure(clip)
