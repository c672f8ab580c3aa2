"""What a study will cost a site, told from numbers alone, before the site takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.client.account import AUDIENCES, UNITS, Account, Audience, Cohort, Loss, Unit
from moretta.client.anonymize.registry import get_anonymizer
from moretta.client.training_plan import TrainingPlan, plan_training
from moretta.shared.features.mfcc import HOP_SAMPLES, SAMPLE_RATE
from moretta.shared.privacy.codebook_budget import codebook_losses
from moretta.shared.release.format import Modality
from moretta.shared.study import Study


@dataclass(frozen=True, slots=True)
class Forecast:
    """The losses that a study will bring to a site of this size."""

    study: Study
    cohort: Cohort
    releases: dict[Modality, Loss]
    codebook: Loss | None
    """Of a federated codebook."""
    training: TrainingPlan | None
    """None where the study trains without DP-SGD: models then tell no more than the releases do."""

    def release_epsilon(self, modality: Modality, unit: Unit) -> float | None:
        """Of one modality's release."""
        return Account([self.releases[modality]]).epsilon(unit, "server", delta=self.study.privacy.delta)

    def codebook_epsilon(self, unit: Unit) -> float | None:
        """Of all iterations of a federated codebook."""
        if self.codebook is None:
            return 0.0
        return Account([self.codebook]).epsilon(unit, "server", delta=self.study.privacy.delta)

    def training_epsilon(self, unit: Unit, rounds: int) -> float | None:
        """Of all models after so many rounds of each."""
        if self.training is None:
            return None
        loss = self.training.loss(self.cohort, rounds * self.training.models)
        return Account([loss]).epsilon(unit, "model", delta=self.study.privacy.delta)

    def composed(self) -> dict[Audience, dict[Unit, float | None]]:
        """All of it together, for whoever learns everything, and for whoever sees the models alone."""
        losses = [*self.releases.values(), *([self.codebook] if self.codebook is not None else [])]
        if self.training is not None:
            losses.append(self.training.loss(self.cohort, self.training.rounds * self.training.models))
        else:
            known = [loss for loss in losses if "model" not in loss.audiences]
            losses += [Loss(loss.cohort, ("model",), loss.clip, loss.speaker) for loss in known]
        account = Account(losses)
        return {
            audience: {unit: account.epsilon(unit, audience, delta=self.study.privacy.delta) for unit in UNITS}
            for audience in AUDIENCES
        }


def forecast(study: Study, clips_per_speaker: Sequence[int], *, seconds: float) -> Forecast:
    """Plan a study at a site.

    Args:
        study: what is asked for.
        clips_per_speaker: clips that would be released and trained on, one number a speaker.
        seconds: of the longest clip.
    """
    pairs = [(f"s{s}", f"s{s}c{c}") for s, clips in enumerate(clips_per_speaker) for c in range(clips)]
    cohort = Cohort.of(pairs)
    frames: dict[Modality, int] = {
        "voice": 1 + int(seconds * SAMPLE_RATE) // HOP_SAMPLES,
        "face": max(1, round(seconds * study.face.fps)),
    }
    releases: dict[Modality, Loss] = {}
    for modality in study.modalities:
        sizes = {str(s): [frames[modality]] * clips for s, clips in enumerate(clips_per_speaker)}
        anonymizer = get_anonymizer(modality, study.section(modality).anonymizer)
        losses = anonymizer.planned_losses(study, sizes)
        audiences: tuple[Audience, ...] = ("server", "model") if anonymizer.is_fitted(study) else ("server",)
        releases[modality] = Loss(cohort, audiences, losses["clip"], losses["speaker"])
    training = plan_training(study, clips_per_speaker) if study.privacy.dp_sgd else None
    return Forecast(study, cohort, releases, _codebook(study, cohort), training)


def _codebook(study: Study, cohort: Cohort) -> Loss | None:
    if not study.voice.enabled or study.voice.codebook != "federated":
        return None
    losses = codebook_losses(study.voice, min(len(clips) for _, clips in cohort.speakers))
    return Loss(cohort, AUDIENCES, (losses["clip"],), (losses["speaker"],))
