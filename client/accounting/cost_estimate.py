"""What a study will cost a site, told from numbers alone, before the site takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moretta.client.accounting.account import AUDIENCES, UNITS, Account, Audience, Cohort, Loss, Unit
from moretta.client.training.training_plan import TrainingPlan, plan_training
from moretta.shared.core.terms import Modality
from moretta.shared.features.mfcc import HOP_SAMPLES, SAMPLE_RATE
from moretta.shared.privacy.site_training import training_losses
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.schema import Study

_NOBODY = Cohort(())


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The losses that a study will bring to a site of this size."""

    study: Study
    cohort: Cohort
    releases: dict[Modality, Loss]
    code: Loss | None
    """Of a federated code, as if nobody were held out."""
    training: TrainingPlan | None
    """None where the study trains without DP-SGD: models then tell no more than the releases do."""
    trained: Cohort
    """Whom these models learn on."""
    fusion: TrainingPlan | None = None
    """Of a fusion that learns on clips of its own; where it shares theirs it is one of the models above."""
    held_back: Cohort = _NOBODY
    """Whom it learns on."""

    def release_epsilon(self, modality: Modality, unit: Unit) -> float | None:
        """Of one modality's release."""
        return Account([self.releases[modality]]).epsilon(unit, "server", delta=self.study.privacy.delta)

    def code_epsilon(self, unit: Unit) -> float | None:
        """Of all rounds of a federated code."""
        if self.code is None:
            return 0.0
        return Account([self.code]).epsilon(unit, "server", delta=self.study.privacy.delta)

    def training_epsilon(self, unit: Unit, rounds: int) -> float | None:
        """Of all models after so many rounds of each."""
        if self.training is None:
            return None
        return Account(self._training(rounds)).epsilon(unit, "model", delta=self.study.privacy.delta)

    def _training(self, rounds: int) -> list[Loss]:
        found = []
        if self.training is not None:
            found.append(self.training.loss(self.trained, rounds * self.training.models))
        if self.fusion is not None:
            found.append(self.fusion.loss(self.held_back, rounds * self.fusion.models))
        return found

    def composed(self) -> dict[Audience, dict[Unit, float | None]]:
        """All of it together, for whoever learns everything, and for whoever sees the models alone."""
        losses = [*self.releases.values(), *(() if self.code is None else (self.code,))]
        if self.training is not None:
            losses += self._training(self.training.rounds)
        else:
            known = [loss for loss in losses if "model" not in loss.audiences]
            losses += [Loss(loss.cohort, ("model",), loss.clip, loss.speaker) for loss in known]
        account = Account(losses)
        return {
            audience: {unit: account.epsilon(unit, audience, delta=self.study.privacy.delta) for unit in UNITS}
            for audience in AUDIENCES
        }


def estimate_cost(study: Study, clips_per_speaker: Sequence[int], *, seconds: float) -> CostEstimate:
    """Plan a study at a site.

    Args:
        study: what is asked for. Which clips are held back for a fusion hangs on pseudonyms that are not known here:
            it is taken for their share, in whole clips of every speaker, or in whole speakers.
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
        anonymizer = anonymizer_of(study, modality)
        losses = anonymizer.planned_losses(study, sizes)
        audiences: tuple[Audience, ...] = ("server", "model") if anonymizer.is_fitted(study) else ("server",)
        releases[modality] = Loss(cohort, audiences, losses["clip"], losses["speaker"])
    first, *others = _split(study, cohort)
    private = study.privacy.dp_sgd
    return CostEstimate(
        study,
        cohort,
        releases,
        _code(study, cohort),
        plan_training(study, first.clips_per_speaker) if private else None,
        first,
        plan_training(study, others[0].clips_per_speaker, "fusion") if private and others else None,
        others[0] if others else _NOBODY,
    )


def _split(study: Study, cohort: Cohort) -> list[Cohort]:
    """The clips of each group of models."""
    if len(study.sharing_clips) == 1:
        return [cohort]
    share, parts = study.fusion.held_back, cohort.speakers
    if study.privacy.unit == "speaker":
        kept = min(round(share * len(parts)), len(parts) - 1)
        pairs = [Cohort(parts[kept:]), Cohort(parts[:kept])]
    else:
        counts = [min(round(share * len(clips)), len(clips) - 1) for _, clips in parts]
        pairs = [
            Cohort(tuple((s, clips[n:]) for (s, clips), n in zip(parts, counts, strict=True))),
            Cohort(tuple((s, clips[:n]) for (s, clips), n in zip(parts, counts, strict=True) if n)),
        ]
    return [part for part in pairs if part.clips]


def _code(study: Study, cohort: Cohort) -> Loss | None:
    if study.site_training is None:
        return None
    losses = training_losses(study.site_training, cohort.most_clips)
    return Loss(cohort, AUDIENCES, (losses["clip"],), (losses["speaker"],))
