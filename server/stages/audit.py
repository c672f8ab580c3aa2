"""Stage audit: every attacker in every scenario on what was released, and what training leaves at the server."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from moretta.server.stages.context import RunContext
from moretta.server.stages.results import Attacks, AuditLimits, Releases, Results
from moretta.server.stages.training_inference import attack_training
from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus

TOO_FEW = "fewer than two people have two released clips: there is nothing to compare"
_FACE_SIDE = 128
"""Pixels of the original crops, where no release has a size."""
Sets = dict[Modality, tuple[ClipSet | None, ClipSet]]
"""Originals, where there are any, and releases."""


def audit(context: RunContext, results: Results, limits: AuditLimits) -> Attacks:
    """Attack voice and face releases; in simulation the originals are there too, and anchor the figures.

    Args:
        context: of the run.
        results: releases, models and updates of the stages before.
        limits: of this machine.
    """
    study, found = context.study, Attacks()
    if not study.audit.enabled:
        context.warn("the study switched the audit off: nothing is known of what the releases leak")
        return found
    there = [m for m in study.modalities if m not in results.absent]
    for modality in there:
        if not can_be_attacked(results.releases, modality):
            context.warn(f"nobody can be re-identified by {modality}: {TOO_FEW}")
    options: dict[str, Any] = {
        "workers": limits.workers,
        "cache_dir": limits.embeddings or context.folder / "server" / "embeddings",
        "bootstrap": study.audit.bootstrap,
    }
    sets = {
        m: _attack_identity(context, results.releases, m, found, options)
        for m in there
        if can_be_attacked(results.releases, m)
    }
    if study.audit.inference:
        _infer(context, results, sets, found, options)
    if study.audit.utility:
        _evaluate_utility(context, sets, found, limits)
    return found


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
    """Attacks identity; returns originals and releases, for the attacks that follow."""
    from moretta.shared.audit.runner import audit as attack

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
    return original, released


def _infer(context: RunContext, results: Results, sets: Sets, found: Attacks, options: dict[str, Any]) -> None:
    """Attributes, membership, inversion and linkage, on releases, models and updates."""
    from moretta.shared.audit.inference.attack_all import attack_all

    seed = derive(context.study.seed, "beyond identity")
    found.inference += attack_all(sets, seed=seed, progress=_steps(context, "inference attacks"), **options)
    found.inference += attack_training(context, results)


def _evaluate_utility(context: RunContext, sets: Sets, found: Attacks, limits: AuditLimits) -> None:
    """How much emotion an outsider still recognizes: an anonymizer that leaves none hides people for nothing."""
    from moretta.shared.audit.utility.evaluate import evaluate_utility

    with tempfile.TemporaryDirectory(prefix="moretta-emotion-") as scratch:
        for modality, (original, released) in sets.items():
            found.utility += evaluate_utility(
                original,
                released,
                seed=derive(context.study.seed, "judges", modality),
                workers=limits.workers,
                scratch=Path(scratch),
                progress=_steps(context, "utility"),
            )


def _steps(context: RunContext, stage: str) -> Any:
    return lambda what, done, total: context.notify(stage=stage, state="step", what=what, done=done, total=total)


def _originals(context: RunContext, modality: Modality, released: ClipSet) -> ClipSet | None:
    """The raw clips under the pseudonyms that their sites gave; None where they never left their sites."""
    originals = context.plan.originals()
    if originals is None:
        return None
    loader = None
    if modality == "face":
        side = released.frames(0).shape[1] if len(released) else _FACE_SIDE
        loader = VideoFaces(side=side, fps=context.study.face.fps)
    classes = context.study.classes
    corpus = read_corpus(originals.corpus, labels=context.study.labels, classes=classes)
    return ClipSet.from_corpus(corpus, modality, originals.keys, loader=loader, classes=classes)
