"""Stage audit: every attacker in every scenario on the releases, the final emotion models and the last updates."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from moretta.server.stages.run import Arrays, Attacks, AuditLimits, Releases, RunContext
from moretta.server.stages.site_attacks import site_rows
from moretta.server.stages.train import sites_not_in
from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import trained_models
from moretta.shared.audit.inference.attack_all import attack_all, without_figures
from moretta.shared.audit.inference.shadow_sites import ATTACKER, LabelledClips, infer_by_shadows
from moretta.shared.audit.metrics.intervals import MIN_RESAMPLES
from moretta.shared.audit.public_people import PublicSets, public_sets
from moretta.shared.audit.result import Result, failure
from moretta.shared.audit.runner import audit as attack
from moretta.shared.audit.score_files import SCORES_FILE, collect_scores
from moretta.shared.core.device import computing_on
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.sections import ModelKind

if TYPE_CHECKING:
    from moretta.shared.models.emotion import EmotionModel

TOO_FEW = "fewer than two people have two released clips: there is nothing to compare"
MAX_CLIPS = 2000
"""Clips that membership is inferred for."""
_FACE_SIDE = 128
"""Pixels of the original crops, where no release has a size."""
_log = logging.getLogger(__name__)


def audit(
    context: RunContext,
    releases: Releases,
    public: Arrays,
    trained: Collection[ModelKind],
    *,
    limits: AuditLimits,
) -> Attacks:
    """Attack voice and face releases; in simulation the originals are there too, and anchor the figures.

    The trained models are in the run's folder. Every modality that was released is attacked, also one without a model.
    """
    from moretta.shared.audit.utility.evaluators import evaluate_utility

    study, found = context.study, Attacks()
    if not study.audit.enabled:
        context.warn("the study switched the audit off: nothing is known of what the releases leak")
        return found
    attacked = [m for m in releases.modalities if can_be_attacked(releases, m)]
    for modality in releases.modalities:
        if modality not in attacked:
            context.warn(f"nobody can be re-identified by {modality}: {TOO_FEW}")
    options: dict[str, Any] = {
        "workers": limits.workers,
        "cache_dir": limits.embeddings or context.folder / "server" / "embeddings",
        "bootstrap": study.audit.bootstrap,
    }
    with computing_on(study.run.device):
        units = None if limits.embeddings is None else limits.embeddings / "units"
        scores = context.folder / "server" / "scores"
        options_here = options | {"units_dir": units, "scores_dir": scores, "public": _public(context, public)}
        sets = {m: _attack_identity(context, releases, m, found, options_here) for m in attacked}
        found.identity += site_rows(context, releases)
        collect_scores(scores, context.folder / SCORES_FILE, {r.attacker for r in found.identity})
        shutil.rmtree(scores, ignore_errors=True)
        if study.audit.inference:
            seed = derive(study.seed, "beyond identity")
            found.inference += attack_all(sets, seed=seed, progress=_steps(context, "inference attacks"), **options)
            found.inference += attack_training(context, releases, public, trained)
        if study.audit.utility:  # an anonymizer that leaves an outsider no emotion hides people for nothing
            with tempfile.TemporaryDirectory(prefix="moretta-emotion-") as scratch:
                for modality, (original, released) in sets.items():
                    found.utility += evaluate_utility(
                        original,
                        released,
                        more=study.audit.evaluators,
                        seed=derive(study.seed, "judges", modality),
                        sentences=study.audit.sentences,
                        workers=limits.workers,
                        scratch=Path(scratch),
                        progress=_steps(context, "utility"),
                    )
    return found


def _public(context: RunContext, arrays: Arrays) -> PublicSets:
    """Voices of the study's public people, before and after its anonymizer. The audit does without them if it must."""
    originals, study = context.plan.originals(), context.study
    if study.audit.public is None:
        return {}
    try:
        corpus = None if originals is None else read_corpus(originals.corpus, labels=study.labels, classes=None)
        return public_sets(study, arrays, corpus)
    except (MorettaError, OSError) as error:
        # Reports are shared: they name neither the server's folders nor people who are in both
        _log.warning("public people of [audit]: %s", error)
        context.warn("no attacker learned from the public people of [audit] first: the log of this run says why")
        return {}


def can_be_attacked(releases: Releases, modality: Modality) -> bool:
    """Whether two people have two released clips each: one to enroll, one to recognize."""
    clips = Counter(
        clip.speaker
        for release in releases.kept.values()
        for clip in release.clips
        if getattr(clip, modality) is not None
    )
    return sum(count > 1 for count in clips.values()) > 1


def _attack_identity(
    context: RunContext, releases: Releases, modality: Modality, found: Attacks, options: dict[str, Any]
) -> tuple[ClipSet | None, ClipSet]:
    """Attacks identity; returns originals, where there are any, and releases, for the attacks that follow."""
    kept = [release for _, release in sorted(releases.kept.items())]
    released = ClipSet.from_releases(kept, modality, classes=context.study.classes)
    original = _originals(context, modality, released)
    result = attack(
        original,
        released,
        attackers=context.study.audit.attackers,
        seed=derive(context.study.seed, "audit", modality),
        progress=_steps(context, f"audit {modality}"),
        **options,
    )
    result.plan.save(context.folder / f"trials-{modality}.json")
    for reason, count in sorted(result.unused.items()):
        context.warn(f"the audit of {modality} left out {count} clips: {reason}")
    found.identity += result.results
    if result.outlying:
        context.warn(
            f"the released {modality} values of {len(result.outlying)} people lie far outside those of the others: "
            "they were left out of all attacks, which they could have blinded"
        )
        released = released.without(result.outlying)
    return original, released


def _steps(context: RunContext, stage: str) -> Any:
    return lambda what, done, total: context.notify(stage=stage, state="step", what=what, done=done, total=total)


def _originals(context: RunContext, modality: Modality, released: ClipSet) -> ClipSet | None:
    """The raw clips under the pseudonyms that their sites gave; None where they never left their sites."""
    originals, study = context.plan.originals(), context.study
    if originals is None:
        return None
    loader = None
    if modality == "face":
        loader = VideoFaces(side=released.side(_FACE_SIDE), fps=study.face.fps)
    corpus = read_corpus(originals.corpus, labels=study.labels, classes=study.classes)
    return ClipSet.from_corpus(corpus, modality, originals.keys, loader=loader, classes=study.classes)


def attack_training(
    context: RunContext, releases: Releases, public: Arrays, trained: Collection[ModelKind]
) -> list[Result]:
    """Membership and update leakage of every modality that has a model. An attack that fails is an invalid finding."""
    found: list[Result] = []
    for modality in context.study.modalities:
        if modality not in trained:
            continue
        attacks: list[tuple[Callable[..., list[Result]], Result]] = [
            (partial(_membership, public), without_figures("membership", modality, trained_models.TARGET, "model"))
        ]
        if context.study.audit.updates:
            about = without_figures("updates", modality, "sex", "updates")
            attacks.append((partial(_shadow_sites, public), about.model_copy(update={"attacker": ATTACKER})))
            attacks.append((_updates, about))
        for infer, about in attacks:
            try:
                found += infer(context, releases, modality, about)
            except Exception as error:
                found.append(about.invalidated(failure(error)))
    return found


def _membership(
    public: Arrays, context: RunContext, releases: Releases, modality: Modality, about: Result
) -> list[Result]:
    from moretta.shared.models.emotion import study_model

    study = context.study
    model, seed = study_model(study, modality), derive(study.seed, "membership", modality)
    examples = membership_examples(context, releases, public, modality, model).some(MAX_CLIPS, seed)
    if reason := trained_models.too_few(examples):
        return [about.invalidated(reason, speakers=len(set(examples.speaker)))]
    attacked = trained_models.predictor(model, load_file(context.checkpoint(modality)), examples.x.shape[1:])
    train = study.train
    in_round = train.sites_of_round(len(releases.kept)) / len(releases.kept)  # so often a site's clips are seen
    epochs = max(1, round(train.rounds * train.local_epochs * in_round))
    start = context.public_start(modality)
    first = load_file(start) if start.is_file() else None
    recipe = trained_models.Recipe(model, train.learning_rate, train.batch_size, epochs, train.optimizer, first=first)
    resamples = max(MIN_RESAMPLES, study.audit.bootstrap)
    return trained_models.infer_membership(attacked, recipe, examples, about=about, resamples=resamples, seed=seed)


def membership_examples(
    context: RunContext, releases: Releases, public: Arrays, modality: Modality, model: EmotionModel
) -> trained_models.MembershipExamples:
    """Every released clip as the model sees it, and whether the model learned on it."""
    learned = _learned(context, releases, modality)
    inputs, clips = zip(*releases.model_inputs(public, modality, model), strict=True)
    labels = np.array([context.study.classes.index(clip.emotion) for clip in clips], np.int64)
    _, speaker = np.unique([clip.speaker for clip in clips], return_inverse=True)
    member = np.array([learned(clip) for clip in clips], bool)
    return trained_models.MembershipExamples(
        np.stack(inputs).astype(np.float32), labels, speaker.astype(np.int64), member
    )


def _learned(context: RunContext, releases: Releases, modality: Modality) -> Any:
    """Whether a clip is one that a model was trained on: a training clip of a site that was in a round."""
    out, learns = set(releases.held_out(context.plan)), partial(context.study.learns, modality)
    out.update(c.speaker for site in sites_not_in(context, releases, modality) for c in releases.kept[site].clips)
    return lambda clip: clip.speaker not in out and learns(speaker=clip.speaker, clip=clip.clip)


def _shadow_sites(
    public: Arrays, context: RunContext, releases: Releases, modality: Modality, about: Result
) -> list[Result]:
    from moretta.shared.models.emotion import study_model

    study, sexes = context.study, _sex_of_sites(context, releases, modality)
    updates = _kept_updates(context, modality, sexes)
    if not updates:
        return [about.invalidated("no site's update is kept: the server has not seen one, or the run is an older one")]
    model, held_out = study_model(study, modality), releases.held_out(context.plan)
    site_of = {clip.speaker: site for site, release in releases.kept.items() for clip in release.clips}
    known = [(x, c) for x, c in releases.model_inputs(public, modality, model) if c.sex is not None]
    if not known:
        return [about.invalidated("no speaker states a sex")]
    clips = LabelledClips(
        x=np.stack([x for x, _ in known]).astype(np.float32),
        y=np.array([study.classes.index(c.emotion) for _, c in known], np.int64),
        speaker=np.array([c.speaker for _, c in known]),
        sex=np.array([c.sex for _, c in known]),
        site=np.array([site_of[c.speaker] for _, c in known]),
        held_out=np.array([c.speaker in held_out for _, c in known]),
    )
    train = study.train
    recipe = trained_models.Recipe(model, train.learning_rate, train.batch_size, train.local_epochs, train.optimizer)
    local = partial(recipe.update, load_file(context.checkpoint(modality)))
    resamples = max(MIN_RESAMPLES, study.audit.bootstrap)
    return infer_by_shadows(updates, sexes, clips, local, about=about, resamples=resamples, seed=study.seed)


def _kept_updates(context: RunContext, modality: Modality, sites: Collection[str]) -> dict[str, dict[str, Any]]:
    """The updates of these sites in the last round, as far as they are kept."""
    return {site: load_file(path) for site in sites if (path := context.update(modality, site)).is_file()}


def _updates(context: RunContext, releases: Releases, modality: Modality, about: Result) -> list[Result]:
    sexes = _sex_of_sites(context, releases, modality)
    updates = _kept_updates(context, modality, sexes)
    resamples = max(MIN_RESAMPLES, context.study.audit.bootstrap)
    found = trained_models.infer_sex(updates, sexes, about=about, resamples=resamples, seed=context.study.seed)
    why = "one update of each site is kept, that of the last round: no second one of a speaker to recognise it in"
    return [*found, about.invalidated(why, target="speaker", speakers=len(updates))]


def _sex_of_sites(context: RunContext, releases: Releases, modality: Modality) -> dict[str, str]:
    """Sex of most training clips of each site, for sites with a majority."""
    learned, found = _learned(context, releases, modality), dict[str, str]()
    for site, release in sorted(releases.kept.items()):
        sexes = Counter(c.sex for c in release.clips if getattr(c, modality) is not None and learned(c))
        if sexes["female"] != sexes["male"]:
            found[site] = "female" if sexes["female"] > sexes["male"] else "male"
    return found
