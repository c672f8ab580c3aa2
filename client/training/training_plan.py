"""What DP-SGD at a site will do and spend, planned from numbers of clips and speakers before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from moretta.client.accounting.account import Cohort, Loss
from moretta.shared.privacy.accounting import calibrated_noise
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """DP-SGD of one study at one site."""

    round: SampledGaussian
    """One round of one model, for the unit that is sampled."""
    units: int
    """How many of them there are."""
    rounds: int
    models: int
    """That learn on these clips and share their budget."""
    most_clips: int
    """Clips of the speaker who has most."""

    @property
    def expected_batch(self) -> float:
        """Units in a batch, on average."""
        return self.round.rate * self.units

    def clip_loss(self, rounds: int = 1) -> tuple[Mechanism, ...]:
        """Of one clip, by so many rounds of one model."""
        steps = replace(self.round, steps=self.round.steps * rounds, unit="clip")
        return (replace(steps, moves=True) if self.round.unit == "speaker" else steps,)

    def speaker_loss(self, rounds: int = 1) -> tuple[Mechanism, ...]:
        """Of one speaker, by so many rounds of one model."""
        steps = replace(self.round, steps=self.round.steps * rounds)
        return (steps if self.round.unit == "speaker" else steps.for_group(self.most_clips),)

    def loss(self, cohort: Cohort, rounds: int = 1) -> Loss:
        """Of everybody who is trained on. Whoever has the release that is trained on learns nothing from it."""
        return Loss(cohort, ("model",), self.clip_loss(rounds), self.speaker_loss(rounds))


def plan_training(study: Study, clips_per_speaker: Sequence[int], kind: ModelKind | None = None) -> TrainingPlan:
    """Plan all rounds, with noise calibrated to the study's target.

    The budget is shared by the models that learn on the same clips, voice and face: noise is calibrated as if all
    their steps were of one model. A fusion that has clips of its own has its own: a clip is in one of the two parts.
    Batches are as large as the study says, in clips; where speakers are sampled, one is expected at least.

    Args:
        study: `[privacy]` and `[train]` count.
        clips_per_speaker: clips that are trained on, one number a speaker, none of them 0.
        kind: what is trained; None is the first of the study's models.
    """
    clips, speakers = sum(clips_per_speaker), len(clips_per_speaker)
    units = clips if study.privacy.unit == "clip" else speakers
    rate = max(min(study.train.batch_size, clips) / clips, 1 / units)
    steps = max(1, round(study.train.local_epochs / rate))
    models = len(_together(study, kind or study.models[0]))
    noise = calibrated_noise(
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        rate=rate,
        steps=steps * study.train.rounds * models,
        accountant=study.privacy.accountant,
    )
    one_round = SampledGaussian(noise_multiplier=noise, rate=rate, steps=steps, unit=study.privacy.unit)
    return TrainingPlan(one_round, units, study.train.rounds, models, max(clips_per_speaker))


def cohorts(
    study: Study, pairs: Mapping[ModelKind, Collection[tuple[str, str]]], named: Callable[[str], str]
) -> dict[ModelKind, Cohort]:
    """Whom each of a study's models learns on.

    Args:
        study: says what it trains, and what is held back for the fusion.
        pairs: the site's own pseudonyms of speaker and clip by modality, without the speakers who are held out.
        named: what a pseudonym is in the study, by which it holds clips back.
    """
    found: dict[ModelKind, Cohort] = {}
    for kind in study.models:
        modalities = study.modalities if kind == "fusion" else (kind,)
        theirs = [pair for modality in modalities for pair in pairs.get(modality, ())]
        found[kind] = Cohort.of((s, c) for s, c in theirs if study.learns(kind, speaker=named(s), clip=named(c)))
    return found


def _together(study: Study, kind: ModelKind) -> tuple[ModelKind, ...]:
    return next(group for group in study.sharing_clips if kind in group)
