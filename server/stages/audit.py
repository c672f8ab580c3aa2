"""Stage audit: every attacker in every scenario on the releases, the final emotion models and the last updates."""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from moretta.server.stages.run import Releases, Run
from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import trained_models
from moretta.shared.audit.inference.attack_all import MIN_RESAMPLES, attack_all, without_figures
from moretta.shared.audit.result import Result, failure
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus

if TYPE_CHECKING:
    from moretta.shared.models.emotion import EmotionModel

TOO_FEW = "fewer than two people have two released clips: there is nothing to compare"
MAX_CLIPS = 2000
"""Clips that membership is inferred for."""
_FACE_SIDE = 128
"""Pixels of the original crops, where no release has a size."""


def audit(run: Run) -> int | None:
    """Attack voice and face releases; in simulation the originals are there too, and anchor the figures.

    Returns how many clips were attacked; None where the study has no audit.
    """
    from moretta.shared.audit.utility.evaluators import evaluate_utility

    study = run.study
    run.identity, run.inference, run.utility = [], [], []
    if not study.audit.enabled:
        run.warn("the study switched the audit off: nothing is known of what the releases leak")
        return None
    there = [m for m in study.modalities if m not in run.absent]
    attacked = [m for m in there if can_be_attacked(run.releases, m)]
    for modality in there:
        if modality not in attacked:
            run.warn(f"nobody can be re-identified by {modality}: {TOO_FEW}")
    workers = run.limits.workers
    options: dict[str, Any] = {
        "workers": workers,
        "cache_dir": run.limits.embeddings or run.folder / "server" / "embeddings",
        "bootstrap": study.audit.bootstrap,
    }
    sets = {m: _attack_identity(run, m, options) for m in attacked}
    if study.audit.inference:
        seed = derive(study.seed, "beyond identity")
        run.inference += attack_all(sets, seed=seed, progress=_steps(run, "inference attacks"), **options)
        run.inference += attack_training(run)
    if study.audit.utility:  # an anonymizer that leaves an outsider no emotion hides people for nothing
        with tempfile.TemporaryDirectory(prefix="moretta-emotion-") as scratch:
            for modality, (original, released) in sets.items():
                run.utility += evaluate_utility(
                    original,
                    released,
                    seed=derive(study.seed, "judges", modality),
                    workers=workers,
                    scratch=Path(scratch),
                    progress=_steps(run, "utility"),
                )
    return run.releases.clips


def can_be_attacked(releases: Releases, modality: Modality) -> bool:
    """Whether two people have two released clips each: one to enroll, one to recognize."""
    clips = Counter(
        clip.speaker
        for release in releases.kept.values()
        for clip in release.clips
        if getattr(clip, modality) is not None
    )
    return sum(count > 1 for count in clips.values()) > 1


def _attack_identity(run: Run, modality: Modality, options: dict[str, Any]) -> tuple[ClipSet | None, ClipSet]:
    """Attacks identity; returns originals, where there are any, and releases, for the attacks that follow."""
    from moretta.shared.audit.runner import audit as attack

    kept = [release for _, release in sorted(run.releases.kept.items())]
    released = ClipSet.from_releases(kept, modality, classes=run.study.classes)
    original = _originals(run, modality, released)
    result = attack(
        original,
        released,
        attackers=run.study.audit.attackers,
        seed=derive(run.study.seed, "audit", modality),
        progress=_steps(run, f"audit {modality}"),
        **options,
    )
    result.plan.save(run.folder / f"trials-{modality}.json")
    for reason, count in sorted(result.unused.items()):
        run.warn(f"the audit of {modality} left out {count} clips: {reason}")
    run.identity += result.results
    return original, released


def _steps(run: Run, stage: str) -> Any:
    return lambda what, done, total: run.notify(stage=stage, state="step", what=what, done=done, total=total)


def _originals(run: Run, modality: Modality, released: ClipSet) -> ClipSet | None:
    """The raw clips under the pseudonyms that their sites gave; None where they never left their sites."""
    originals, study = run.plan.originals(), run.study
    if originals is None:
        return None
    loader = None
    if modality == "face":
        side = released.frames(0).shape[1] if len(released) else _FACE_SIDE
        loader = VideoFaces(side=side, fps=study.face.fps)
    corpus = read_corpus(originals.corpus, labels=study.labels, classes=study.classes)
    return ClipSet.from_corpus(corpus, modality, originals.keys, loader=loader, classes=study.classes)


def attack_training(run: Run) -> list[Result]:
    """Membership and update leakage of every modality that has a model. An attack that fails is an invalid finding."""
    found: list[Result] = []
    for modality in run.study.modalities:
        if modality not in run.training.trained:
            continue
        attacks = [(_membership, without_figures("membership", modality, trained_models.TARGET, "model"))]
        if run.study.audit.updates:
            attacks.append((_updates, without_figures("updates", modality, "sex", "updates")))
        for infer, about in attacks:
            try:
                found += infer(run, modality, about)
            except Exception as error:
                found.append(about.invalidated(failure(error)))
    return found


def _membership(run: Run, modality: Modality, about: Result) -> list[Result]:
    from moretta.shared.models.emotion import study_model

    study = run.study
    model, seed = study_model(study, modality), derive(study.seed, "membership", modality)
    examples = membership_examples(run, modality, model).some(MAX_CLIPS, seed)
    if reason := trained_models.too_few(examples):
        return [about.invalidated(reason, speakers=len(set(examples.speaker)))]
    attacked = trained_models.predictor(model, load_file(run.checkpoint(modality)), examples.x.shape[1:])
    epochs = study.train.rounds * study.train.local_epochs
    recipe = trained_models.Recipe(model, study.train.learning_rate, study.train.batch_size, epochs)
    resamples = max(MIN_RESAMPLES, study.audit.bootstrap)
    return trained_models.infer_membership(attacked, recipe, examples, about=about, resamples=resamples, seed=seed)


def membership_examples(run: Run, modality: Modality, model: EmotionModel) -> trained_models.MembershipExamples:
    """Every released clip as the model sees it, and whether the model learned on it."""
    learned = _learned(run, modality)
    inputs, clips = zip(*run.releases.model_inputs(run.public, modality, model), strict=True)
    labels = np.array([run.study.classes.index(clip.emotion) for clip in clips], np.int64)
    _, speaker = np.unique([clip.speaker for clip in clips], return_inverse=True)
    member = np.array([learned(clip) for clip in clips], bool)
    return trained_models.MembershipExamples(
        np.stack(inputs).astype(np.float32), labels, speaker.astype(np.int64), member
    )


def _learned(run: Run, modality: Modality) -> Any:
    """Whether a clip is a training clip of a model."""
    held_out, learns = run.held_out, partial(run.study.learns, modality)
    return lambda clip: clip.speaker not in held_out and learns(speaker=clip.speaker, clip=clip.clip)


def _updates(run: Run, modality: Modality, about: Result) -> list[Result]:
    sexes = _sex_of_sites(run, modality)
    updates = {site: load_file(path) for site in sexes if (path := run.update(modality, site)).is_file()}
    resamples = max(MIN_RESAMPLES, run.study.audit.bootstrap)
    found = trained_models.infer_sex(updates, sexes, about=about, resamples=resamples, seed=run.study.seed)
    why = "one update of each site is kept, that of the last round: no second one of a speaker to recognise it in"
    return [*found, about.invalidated(why, target="speaker", speakers=len(updates))]


def _sex_of_sites(run: Run, modality: Modality) -> dict[str, str]:
    """Of most training clips of each site, as far as there is a majority."""
    learned, found = _learned(run, modality), dict[str, str]()
    for site, release in sorted(run.releases.kept.items()):
        sexes = Counter(c.sex for c in release.clips if getattr(c, modality) is not None and learned(c))
        if sexes["female"] != sexes["male"]:
            found[site] = "female" if sexes["female"] > sexes["male"] else "male"
    return found
