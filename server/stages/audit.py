"""Stage audit: every attacker in every scenario on what was released."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from moretta.server.stages.run_context import Run
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.loaders import VideoFaces
from moretta.shared.core.seeds import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus

TOO_FEW = "fewer than two people have two released clips: there is nothing to compare"
_FACE_SIDE = 128
"""Pixels of the original crops, where no release tells a size."""


def audit(run: Run, rates: dict[str, float]) -> None:
    """Attack voice and face releases; in simulation the originals are there too, and anchor the figures."""
    if not run.study.audit.enabled:
        run.warn("the study switched the audit off: nothing is known of what the releases leak")
        return
    there = [m for m in run.study.modalities if m not in run.absent]
    for modality in there:
        if not can_be_attacked(run, modality):
            run.warn(f"nobody can be re-identified by {modality}: {TOO_FEW}")
    sets = {m: _audit(run, m) for m in there if can_be_attacked(run, m)}
    if run.study.audit.inference:
        _inference(run, sets)
    if run.study.audit.utility:
        _utility(run, sets)
    rates["clips"] = sum(r.clips for r in run.sites.values())


def can_be_attacked(run: Run, modality: Modality) -> bool:
    """Whether two people have two released clips each: one to know them by, one to recognise."""
    clips = Counter(
        clip.speaker
        for release in run.releases.values()
        for clip in release.clips
        if getattr(clip, modality) is not None
    )
    return sum(count > 1 for count in clips.values()) > 1


def _audit(run: Run, modality: Modality) -> tuple[ClipSet | None, ClipSet]:
    """Attacks identity; returns originals and releases, for the attacks that follow."""
    from moretta.shared.audit.modality_audit import audit as attack

    released = ClipSet.from_releases([run.releases[site] for site in sorted(run.releases)], modality)
    original = _originals(run, modality, released)
    result = attack(
        original,
        released,
        attackers=run.study.audit.attackers,
        seed=derive(run.study.seed, "audit", modality),
        bootstrap=run.study.audit.bootstrap,
        workers=run.workers,
        cache_dir=_cache(run),
        progress=lambda what, done, total: run.notify(
            stage=f"audit {modality}", state="step", what=what, done=done, total=total
        ),
    )
    result.plan.save(run.folder / f"trials-{modality}.json")
    for reason, count in sorted(result.unused.items()):
        run.warn(f"the audit of {modality} left out {count} clips: {reason}")
    run.audit += result.rows
    return original, released


def _inference(run: Run, sets: dict[Modality, tuple[ClipSet | None, ClipSet]]) -> None:
    """What else releases, models and updates give away."""
    from moretta.server.stages.training_inference import attack_training
    from moretta.shared.audit.inference.inference_attacks import attack_all

    run.findings += attack_all(
        sets,
        seed=derive(run.study.seed, "beyond identity"),
        bootstrap=run.study.audit.bootstrap,
        workers=run.workers,
        cache_dir=_cache(run),
        progress=lambda what, done, total: run.notify(
            stage="audit beyond identity", state="step", what=what, done=done, total=total
        ),
    )
    run.findings += attack_training(run)


def _utility(run: Run, sets: dict[Modality, tuple[ClipSet | None, ClipSet]]) -> None:
    """How much emotion an outsider still reads: an anonymizer that leaves none hides people for nothing."""
    from moretta.shared.audit.utility import evaluate_utility

    with tempfile.TemporaryDirectory(prefix="moretta-emotion-") as scratch:
        for modality, (original, released) in sets.items():
            run.utility += evaluate_utility(
                original,
                released,
                seed=derive(run.study.seed, "judges", modality),
                workers=run.workers,
                scratch=Path(scratch),
                progress=lambda what, done, total: run.notify(
                    stage="emotion that is left", state="step", what=what, done=done, total=total
                ),
            )


def _cache(run: Run) -> Path:
    return run.embeddings or run.folder / "server" / "embeddings"


def _originals(run: Run, modality: Modality, released: ClipSet) -> ClipSet | None:
    """The raw clips under the pseudonyms that their sites gave; None where they never left their sites."""
    originals = run.plan.originals()
    if originals is None:
        return None
    loader = None
    if modality == "face":
        side = released.frames(0).shape[1] if len(released) else _FACE_SIDE
        loader = VideoFaces(side=side, fps=run.study.face.fps)
    corpus = read_corpus(originals.corpus, labels=run.study.labels)
    return ClipSet.from_corpus(corpus, modality, originals.keys, loader=loader)
