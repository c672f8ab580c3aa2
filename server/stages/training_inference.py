"""Attacks on what training leaves at the server: the final emotion models, and every site's last update."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from moretta.server.stages.context import RunContext
from moretta.server.stages.results import Arrays, Releases, Results
from moretta.shared.audit.inference.attack_all import MIN_RESAMPLES, failure, without_figures
from moretta.shared.audit.inference.trained_models import (
    TARGET,
    MembershipExamples,
    Recipe,
    infer_membership,
    infer_sex,
    predictor,
    too_few,
)
from moretta.shared.audit.result import Result
from moretta.shared.core.atomic import disk_failed
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from moretta.shared.models.emotion import EmotionModel

MAX_CLIPS = 2000


def attack_training(context: RunContext, results: Results) -> list[Result]:
    """Membership and update leakage of every modality that has a model. What fails is an invalid finding."""
    found: list[Result] = []
    for modality in context.study.modalities:
        if modality not in results.training.trained:
            continue
        attacks: list[tuple[Result, Callable[[RunContext, Releases, Modality, Result], list[Result]]]]
        attacks = [
            (without_figures("membership", modality, TARGET, "model"), partial(_membership, results.public)),
        ]
        if context.study.audit.updates:
            attacks.append((without_figures("updates", modality, "sex", "updates"), _updates))
        for about, function in attacks:
            try:
                found += function(context, results.releases, modality, about)
            except Exception as error:
                if disk_failed(error):
                    raise
                found.append(about.invalidated(failure(error)))
    return found


def _membership(
    public: Arrays, context: RunContext, releases: Releases, modality: Modality, about: Result
) -> list[Result]:
    from moretta.shared.models.emotion import study_model

    study = context.study
    model = study_model(study, modality)
    seed = derive(study.seed, "membership", modality)
    examples = _examples(context, releases, public, modality, model).some(MAX_CLIPS, seed)
    if reason := too_few(examples):
        return [about.invalidated(reason, speakers=len(set(examples.speaker)))]
    weights = load_file(context.checkpoint(modality))
    attacked = predictor(model, weights, examples.x.shape[1:])
    epochs = study.train.rounds * study.train.local_epochs
    recipe = Recipe(model, study.train.learning_rate, study.train.batch_size, epochs)
    return infer_membership(
        attacked,
        recipe,
        examples,
        about=about,
        resamples=max(MIN_RESAMPLES, study.audit.bootstrap),
        seed=seed,
    )


def _examples(
    context: RunContext, releases: Releases, public: Arrays, modality: Modality, model: EmotionModel
) -> MembershipExamples:
    held_out = releases.held_out(context.plan)
    inputs, clips = zip(*releases.model_inputs(public, modality, model), strict=True)
    labels = np.array([context.study.classes.index(clip.emotion) for clip in clips], np.int64)
    _, speaker = np.unique([clip.speaker for clip in clips], return_inverse=True)
    learns = context.study.learns
    member = np.array(
        [c.speaker not in held_out and learns(modality, speaker=c.speaker, clip=c.clip) for c in clips], bool
    )
    return MembershipExamples(np.stack(inputs).astype(np.float32), labels, speaker.astype(np.int64), member)


def _updates(context: RunContext, releases: Releases, modality: Modality, about: Result) -> list[Result]:
    sexes = _sex_of_sites(context, releases, modality)
    updates = {site: load_file(path) for site in sexes if (path := context.update(modality, site)).is_file()}
    resamples = max(MIN_RESAMPLES, context.study.audit.bootstrap)
    found = infer_sex(updates, sexes, about=about, resamples=resamples, seed=context.study.seed)
    why = "one update of each site is kept, that of the last round: no second one of a speaker to recognise it in"
    return [*found, about.invalidated(why, target="speaker", speakers=len(updates))]


def _sex_of_sites(context: RunContext, releases: Releases, modality: Modality) -> dict[str, str]:
    """Of most training clips of each site, as far as there is a majority."""
    held_out = releases.held_out(context.plan)
    found: dict[str, str] = {}
    for site, release in sorted(releases.kept.items()):
        clips = [
            c
            for c in release.clips
            if getattr(c, modality) is not None
            and c.speaker not in held_out
            and context.study.learns(modality, speaker=c.speaker, clip=c.clip)
        ]
        female, male = (sum(clip.sex == sex for clip in clips) for sex in ("female", "male"))
        if female != male:
            found[site] = "female" if female > male else "male"
    return found
