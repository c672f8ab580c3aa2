"""A site's part in training a speaker code: one step of DP-SGD a round, on the ledger before it is made.

Held-out speakers have no part in it: who tests models that read the code has not taught it. Everything that is
released afterwards is told in this code, so what it cost counts for whoever sees releases and for whoever sees models.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.client.accounting.account import AUDIENCES, Cohort, Loss
from moretta.client.clips.provenance import Provenance, check_unchanged
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.training.dp_sgd import TrainingExamples, private_steps
from moretta.client.training.held_out import CODE_KIND, of_corpus
from moretta.client.training.numbered_requests import Step
from moretta.client.training.randomness import Noiseless, Randomness, SeededRandomness, SystemRandomness
from moretta.client.training.training_plan import TrainingPlan
from moretta.client.training.update_store import Array, StoredResponse, UpdateStore
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import sound_file
from moretta.shared.features.federated_encoder import CLIPPING_NORM, LEARNING_RATE, FederatedEncoder
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_arrays import are_finite
from moretta.shared.features.speaker_code import measured_clip
from moretta.shared.privacy.code_budget import code_losses, code_step, is_federated
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from moretta.shared.study.voice import VoiceSection

LEDGER_KIND = CODE_KIND
MODEL = "voice/code"


def round_of_code(
    settings: SiteSettings, study: Study, weights: dict[str, Array], *, round_number: int
) -> StoredResponse:
    """One round's answer: the same arrays, as this site's clips move them.

    Asked again it is answered alike, and a site that died over it pays once, as for a round of training. Asked with
    other weights it refuses: a study has one answer for each round.

    Args:
        weights: the code in training, as the server has it before this round.
        round_number: from 1.

    Raises:
        StudyError: the arrays are no code in training.
        RefusedError: the study has no such round, it was asked before with other weights, or nobody can be trained on.
        PolicyError: the site's policy refuses it.
        BudgetError: all rounds together would lead beyond a limit; nothing is computed.
    """
    step = Step(LEDGER_KIND, MODEL, round_number)

    def make(request_digest: str) -> StoredResponse:
        _check_planned(study, round_number)
        return _trained(settings, study, weights, step, request_digest)

    return step.response(settings, study, weights, make)


def _check_planned(study: Study, round_number: int) -> None:
    voice = study.voice
    if not is_federated(voice) or not 1 <= round_number <= voice.code_rounds:
        raise RefusedError(
            f"round {round_number} of a code in training",
            expected=f"1 to {voice.code_rounds} of a federated one, by the study",
        )


@dataclass(frozen=True)
class _Lesson:
    """What a site's speakers teach a code with."""

    features: npt.NDArray[np.float32]
    """[rows, n]; several of each clip where a code is made for each of its steps."""
    labels: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    """[rows], the unit that each is of."""
    cohort: Cohort

    @property
    def units(self) -> int:
        """How many of them there are."""
        return int(self.owners.max()) + 1


def _trained(
    settings: SiteSettings, study: Study, weights: dict[str, Array], step: Step, request_digest: str
) -> StoredResponse:
    import torch

    code = FederatedEncoder.from_arrays(weights, size=study.voice.code_size)
    provenance, clips = _trained_speakers(settings, study)
    lesson = _lesson(settings, study, clips, code)
    _pay(settings, study, lesson, step, request_digest)
    network = code.network().train()
    private_steps(
        network,
        TrainingExamples(torch.from_numpy(lesson.features), torch.from_numpy(lesson.labels), lesson.owners),
        _plan(study.voice, lesson),
        _randomness(settings, study.voice, step.number),
        max_grad_norm=CLIPPING_NORM,
        learning_rate=LEARNING_RATE,
        after_step=lambda: None,
    )
    if provenance is not None:
        check_unchanged(provenance, settings)
        provenance.save(UpdateStore.of(settings.updates, study).folder)
    arrays = code.after(network)
    if not are_finite(*arrays.values()):  # this tells of the noise alone
        raise RunError("a code that is not finite after this round", fix="raise code_epsilon in [voice]")
    return StoredResponse(arrays, {"num-examples": lesson.units})


def _trained_speakers(settings: SiteSettings, study: Study) -> tuple[Provenance | None, tuple[Clip, ...]]:
    """The site's clips, without those that came after the first round, and the record of them."""
    corpus, clips = site_corpus(settings, study)
    if settings.policy is None:
        return None, clips
    stored = Provenance.load(UpdateStore.of(settings.updates, study).folder)
    provenance = stored or Provenance.take(settings, study, corpus, clips, ("voice",))
    return provenance, tuple(clip for clip in clips if str(clip.name) in provenance.clips)


def _pay(settings: SiteSettings, study: Study, lesson: _Lesson, step: Step, request_digest: str) -> None:
    cohort = lesson.cohort
    if settings.policy is not None:
        settings.policy.check_study(study)
        settings.policy.check_clips(cohort.clips, len(cohort.speakers))
    one, left = (_loss(study.voice, cohort, rounds=n) for n in (1, study.voice.code_rounds - step.number + 1))
    step.pay(settings, study, request_digest, one=one, left=left)


def _loss(section: VoiceSection, cohort: Cohort, *, rounds: int) -> Loss:
    losses = code_losses(section, cohort.most_clips, rounds=rounds)
    return Loss(cohort, AUDIENCES, (losses["clip"],), (losses["speaker"],))


def _plan(section: VoiceSection, lesson: _Lesson) -> TrainingPlan:
    """The step that `private_steps` makes; without noise its multiplier is not looked at."""
    step = code_step(section) or SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1, unit=section.code_unit)
    return TrainingPlan(step, lesson.units, section.code_rounds, models=1, most_clips=lesson.cohort.most_clips)


def _randomness(settings: SiteSettings, section: VoiceSection, round_number: int) -> Randomness:
    if not section.code_epsilon:
        return Noiseless()
    if settings.simulated_seed is None:
        return SystemRandomness()
    text = f"{settings.simulated_seed} {settings.name} {MODEL} {round_number}"
    return SeededRandomness(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1)


def _lesson(settings: SiteSettings, study: Study, clips: Sequence[Clip], code: FederatedEncoder) -> _Lesson:
    """Measurements of the usable clips of all speakers who are not held out.

    Raises:
        RefusedError: there is none.
    """
    section, pseudonyms = study.voice, settings.pseudonyms()
    tested = of_corpus(settings, study, clips)
    people: dict[str, list[tuple[Clip, Array]]] = defaultdict(list)
    for clip in clips:
        speaker = pseudonyms.speaker(clip.speaker)
        rows = None if speaker in tested else _rows(clip, in_windows=section.uses_windows)
        if rows is not None:
            people[speaker].append((clip, rows))
    if not people:
        raise RefusedError("no clip that a code could be trained on", expected="at least one of a training speaker")
    trained_speakers = [(speaker, clip, rows) for speaker in sorted(people) for clip, rows in people[speaker]]
    normalized = [
        code.normalized(np.concatenate([rows for _, rows in people[s]]), unit=section.code_unit) for s in sorted(people)
    ]
    lengths = [len(rows) for _, _, rows in trained_speakers]
    units = [speaker if section.code_unit == "speaker" else str(clip.name) for speaker, clip, _ in trained_speakers]
    return _Lesson(
        features=np.concatenate(normalized),
        labels=np.repeat([clip.label.class_index for _, clip, _ in trained_speakers], lengths).astype(np.int64),
        owners=np.repeat(_numbered(units), lengths),
        cohort=Cohort.of((speaker, pseudonyms.clip(str(clip.name))) for speaker, clip, _ in trained_speakers),
    )


def _numbered(names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _rows(clip: Clip, *, in_windows: bool) -> Array | None:
    try:
        path = sound_file(clip)
        if path is None:
            return None
        found = path.stat()
        return _measurements(clip, found.st_mtime_ns, found.st_size, in_windows)
    except Exception:  # fail closed: this clip has no part in the code
        return None


@lru_cache(maxsize=4096)  # every round asks for the same clips; a few hundred bytes each
def _measurements(clip: Clip, changed: int, size: int, in_windows: bool) -> Array | None:
    from moretta.shared.data.recordings import read_sound

    del changed, size
    sound = read_sound(clip)
    return None if sound is None else measured_clip(check_samples(sound), in_windows=in_windows)
