"""Plan of a study's work and privacy cost at one site, from numbers of clips and speakers, before any clip is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from moretta.client.accounting.account import AUDIENCES, UNITS, Account, Audience, Cohort, Loss, Unit
from moretta.shared.core.terms import Modality
from moretta.shared.features.mfcc import HOP_SAMPLES, SAMPLE_RATE
from moretta.shared.privacy.accounting import calibrated_noise, training_losses
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """DP-SGD of one study at one site."""

    round: SampledGaussian
    """One round of one model, for the unit that is sampled."""
    units: int
    """Number of the clips, or speakers, that are sampled."""
    rounds: int
    models: int
    """Number of models that train on these clips and share their budget."""
    most_clips: int
    """Clips of the speaker who has most."""

    @property
    def expected_batch(self) -> float:
        """Units in a batch, on average."""
        return self.round.rate * self.units

    def loss(self, cohort: Cohort, rounds: int = 1) -> Loss:
        """Loss of everybody who is trained on. Holders of their release learn nothing more from the model."""
        steps = replace(self.round, steps=self.round.steps * rounds)
        return Loss(cohort, ("model",), steps.by_unit(self.most_clips))


def plan_training(study: Study, clips_per_speaker: Sequence[int], kind: ModelKind | None = None) -> TrainingPlan:
    """Plan all rounds, with noise calibrated to the study's target.

    The budget is shared by the models that learn on the same clips, voice and face: noise is calibrated as if all
    their steps were of one model. A fusion that has clips of its own has its own: a clip is in one of the two parts.
    Batches are as large as the study says, in clips; where speakers are sampled, one is expected at least.

    Args:
        clips_per_speaker: clips that are trained on, one number a speaker, none of them 0.
        kind: what is trained; None is the first of the study's models.
    """
    privacy, clips = study.privacy, sum(clips_per_speaker)
    units = clips if privacy.unit == "clip" else len(clips_per_speaker)
    rate = max(min(study.train.batch_size, clips) / clips, 1 / units)
    steps = max(1, round(study.train.local_epochs / rate))
    kind = kind or study.models[0]
    models = next(len(group) for group in study.sharing_clips if kind in group)
    noise = calibrated_noise(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        rate=rate,
        steps=steps * study.train.rounds * models,
        accountant=privacy.accountant,
    )
    one_round = SampledGaussian(noise_multiplier=noise, rate=rate, steps=steps, unit=privacy.unit)
    return TrainingPlan(one_round, units, study.train.rounds, models, max(clips_per_speaker))


def cohorts(
    study: Study, pairs: Mapping[ModelKind, Collection[tuple[str, str]]], named: Callable[[str], str]
) -> dict[ModelKind, Cohort]:
    """On whom each of a study's models is trained.

    Args:
        pairs: the site's own pseudonyms of speaker and clip by modality, without the speakers who are held out.
        named: what a pseudonym is in the study, by which it holds clips back for the fusion.
    """
    found: dict[ModelKind, Cohort] = {}
    for kind in study.models:
        modalities = study.modalities if kind == "fusion" else (kind,)
        theirs = [pair for modality in modalities for pair in pairs.get(modality, ())]
        found[kind] = Cohort.of((s, c) for s, c in theirs if study.learns(kind, speaker=named(s), clip=named(c)))
    return found


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The losses that a study will bring to a site of this size."""

    study: Study
    cohort: Cohort
    releases: dict[Modality, Loss]
    code: Loss | None
    """Loss of a federated code, as if nobody were held out."""
    trainings: list[tuple[TrainingPlan, Cohort]]
    """Plan and cohort of models that share clips, and of a fusion with clips of its own; empty without DP-SGD, where
    models reveal no more than the releases do."""

    def release_epsilon(self, modality: Modality, unit: Unit) -> float | None:
        """Epsilon of one modality's release."""
        return Account([self.releases[modality]]).epsilon(unit, "server", delta=self.study.privacy.delta)

    def code_epsilon(self, unit: Unit) -> float | None:
        """Epsilon of all rounds of a federated code."""
        losses = [] if self.code is None else [self.code]
        return Account(losses).epsilon(unit, "server", delta=self.study.privacy.delta)

    def training_epsilon(self, unit: Unit, rounds: int) -> float | None:
        """Epsilon of all models after this number of rounds of each; None without DP-SGD."""
        if not self.trainings:
            return None
        return Account(self._training(rounds)).epsilon(unit, "model", delta=self.study.privacy.delta)

    def composed(self) -> dict[Audience, dict[Unit, float | None]]:
        """All of it together, for the server, which learns everything, and for those who see the models alone."""
        losses = [*self.releases.values(), *(() if self.code is None else (self.code,))]
        if self.trainings:
            losses += self._training(self.study.train.rounds)
        else:
            losses += [replace(loss, audiences=("model",)) for loss in losses if "model" not in loss.audiences]
        account, delta = Account(losses), self.study.privacy.delta
        return {audience: {u: account.epsilon(u, audience, delta=delta) for u in UNITS} for audience in AUDIENCES}

    def _training(self, rounds: int) -> list[Loss]:
        return [plan.loss(cohort, rounds * plan.models) for plan, cohort in self.trainings]


def estimate_cost(study: Study, clips_per_speaker: Sequence[int], *, seconds: float) -> CostEstimate:
    """Plan a study at a site.

    Which clips are held back for a fusion depends on pseudonyms that are not known here: their share is taken, in whole
    clips of every speaker, or in whole speakers.

    Args:
        clips_per_speaker: clips that would be released and trained on, one number a speaker.
        seconds: of the longest clip.
    """
    cohort = Cohort.of((f"s{s}", f"s{s}c{c}") for s, clips in enumerate(clips_per_speaker) for c in range(clips))
    frames: dict[Modality, int] = {
        "voice": 1 + int(seconds * SAMPLE_RATE) // HOP_SAMPLES,
        "face": max(1, round(seconds * study.face.fps)),
    }
    releases: dict[Modality, Loss] = {}
    for modality in study.modalities:
        sizes = {str(s): [frames[modality]] * clips for s, clips in enumerate(clips_per_speaker)}
        anonymizer = anonymizer_of(study, modality)
        audiences: tuple[Audience, ...] = ("server", "model") if anonymizer.is_fitted(study) else ("server",)
        releases[modality] = Loss(cohort, audiences, anonymizer.planned_losses(study, sizes))
    code, trainings = None, []
    if study.site_training is not None:
        code = Loss(cohort, AUDIENCES, training_losses(study.site_training, cohort.most_clips))
    if study.privacy.dp_sgd:
        kinds: tuple[ModelKind | None, ...] = (None, "fusion")
        for kind, part in zip(kinds, _split(study, cohort), strict=False):
            trainings.append((plan_training(study, part.clips_per_speaker, kind), part))
    return CostEstimate(study, cohort, releases, code, trainings)


def _split(study: Study, cohort: Cohort) -> list[Cohort]:
    """The clips of each group of models."""
    if len(study.sharing_clips) == 1:
        return [cohort]
    share, parts = study.fusion.held_back, cohort.speakers
    if study.privacy.unit == "speaker":
        kept = min(round(share * len(parts)), len(parts) - 1)
        pairs = [Cohort(parts[kept:]), Cohort(parts[:kept])]
    else:
        cut = [(s, clips, min(round(share * len(clips)), len(clips) - 1)) for s, clips in parts]
        pairs = [Cohort(tuple((s, c[n:]) for s, c, n in cut)), Cohort(tuple((s, c[:n]) for s, c, n in cut if n))]
    return [part for part in pairs if part.clips]
