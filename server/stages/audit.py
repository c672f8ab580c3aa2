"""Stage audit: every attacker in every scenario on what was released."""

from __future__ import annotations

from moretta.server.audit.clipset import ClipSet
from moretta.server.audit.loaders import VideoFaces
from moretta.server.run import Run
from moretta.shared.corpus.reader import read_corpus
from moretta.shared.release.format import Modality
from moretta.shared.seeds import derive

_FACE_SIDE = 128
"""Pixels of the original crops, where no release tells a size."""


def audit(run: Run, rates: dict[str, float]) -> None:
    """Attack voice and face releases; in simulation the originals are there too, and anchor the figures."""
    if not run.study.audit.enabled:
        run.warn("the study switched the audit off: nothing is known of what the releases leak")
        return
    for modality in run.study.modalities:
        if modality not in run.absent:
            _audit(run, modality)
    rates["clips"] = sum(r.clips for r in run.sites.values())


def _audit(run: Run, modality: Modality) -> None:
    from moretta.server.audit.run import audit as attack

    released = ClipSet.from_releases([run.releases[site] for site in sorted(run.releases)], modality)
    result = attack(
        _originals(run, modality, released),
        released,
        attackers=run.study.audit.attackers,
        seed=derive(run.study.seed, "audit", modality),
        bootstrap=run.study.audit.bootstrap,
        cache_dir=run.folder / "server" / "embeddings",
        progress=lambda what, done, total: run.tell(
            stage=f"audit {modality}", state="step", what=what, done=done, total=total
        ),
    )
    result.plan.save(run.folder / f"trials-{modality}.json")
    for reason, count in sorted(result.unused.items()):
        run.warn(f"the audit of {modality} left out {count} clips: {reason}")
    run.audit += result.rows


def _originals(run: Run, modality: Modality, released: ClipSet) -> ClipSet:
    """The raw clips under the pseudonyms that their sites gave. Only a simulation has them in one place."""
    keys = run.plan.pseudonym_keys()
    loader = None
    if modality == "face":
        side = released.frames(0).shape[1] if len(released) else _FACE_SIDE
        loader = VideoFaces(side=side, fps=run.study.face.fps)
    return ClipSet.from_corpus(read_corpus(run.plan.corpus, labels=run.study.labels), modality, keys, loader=loader)
