"""What `moretta choose` tries: a grid of candidates, each of which is a release and its audit, on one site."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moretta.deploy.sweep.grid import load_grid, make_grid
from moretta.deploy.sweep.jobs import SweepPlan, plan_sweep
from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.study.schema import Study, load_study

SHIPPED = Path(__file__).parent
"""Folder of the candidates that come with Moretta, one file for each modality."""
_STUDY_KEYS = {
    "voice": ("public_speech", "coefficients"),
    "face": ("weights", "epochs", "training_faces", "preset"),
}
"""Options of a study's anonymizer that no candidate is about."""


def plan_choice(
    corpus: Path,
    *,
    modality: Modality,
    max_top1: float,
    candidates: Path | None,
    study: Path | None,
    attackers: Sequence[str],
    command: str,
) -> SweepPlan:
    """Find out what has to be done.

    Args:
        corpus: clips of the site, in CREMA-D layout.
        modality: to choose an anonymizer for.
        max_top1: the cap.
        candidates: a grid file; None takes the one that comes with Moretta.
        study: seed, labels, public data and attackers are taken from it; None takes the defaults.
        attackers: names, in place of the study's; empty means those, or all.
        command: how to do it again.

    Raises:
        CorpusError: the corpus cannot be used.
        StudyError: nobody in it can be re-identified by this modality, the cap is under what guessing gives, or the
            study, a candidate or an attacker cannot be used.
    """
    base = load_study(study)
    _check_attackers(attackers or base.audit.attackers, modality)
    _check_speakers(read_corpus(corpus, labels=base.labels, classes=base.classes), modality, max_top1)
    grid = load_grid(candidates or SHIPPED / f"{modality}.toml")
    if grid.study is not None or grid.base or grid.folds != "one" or len(grid.seeds) > 1:
        raise StudyError(
            f"candidates in {candidates} with a study, folds or several seeds of their own",
            expected="curves and axes alone",
            fix="name the study with --study",
        )
    made = make_grid(grid.model_copy(update={"base": base_of(base, modality, attackers)}))
    plan = plan_sweep(made, [corpus], command)
    return replace(plan, cells=tuple(replace(cell, training=()) for cell in plan.cells))


def of_modality(corpus: Corpus, modality: Modality) -> list[Clip]:
    """The clips that have sound, or video."""
    return [clip for clip in corpus.clips if (has_sound(clip) if modality == "voice" else clip.video is not None)]


def base_of(study: Study, modality: Modality, attackers: Sequence[str]) -> dict[str, Any]:
    """What all candidates share, as the base of a grid: one site, one modality, and what of a study is not tried."""
    content = study.model_dump(exclude_unset=True)
    other = "face" if modality == "voice" else "voice"
    section = content.get(modality, {})
    options = {key: value for key, value in section.get("options", {}).items() if key in _STUDY_KEYS[modality]}
    kept = {"options": options} | {key: section[key] for key in section if key == "fps"}
    audit = {"bootstrap": study.audit.bootstrap, "attackers": tuple(attackers) or study.audit.attackers}
    return {
        "seed": study.seed,
        "labels": study.labels,
        "classes": study.classes,
        "sites": 1,
        modality: kept,
        other: {"enabled": False},
        "audit": audit,
    }


def _check_attackers(names: Sequence[str], modality: Modality) -> None:
    from moretta.shared.audit.attackers import attacker_names, get_attacker

    known = [name for name in attacker_names() if get_attacker(name).modality == modality]
    if unknown := [name for name in names if name not in known]:
        raise StudyError(
            f"{', '.join(unknown)} named as attackers of {modality}", expected=f"one or more of: {', '.join(known)}"
        )


def _check_speakers(corpus: Corpus, modality: Modality, max_top1: float) -> None:
    """Before anything is computed: whether there is something to choose by."""
    clips = Counter(clip.speaker for clip in of_modality(corpus, modality))
    if not clips:
        what = "sound" if modality == "voice" else "video"
        raise StudyError(
            f"no clip of the corpus has {what}",
            expected=f"clips to choose an anonymizer of {modality} by",
            fix="name the other with --modality",
        )
    people = sum(count > 1 for count in clips.values())
    if people < 2:
        raise StudyError(
            f"{len(clips)} people with {modality}, of whom {people} with two clips or more",
            expected="two clips of at least two people: one to know a person by, one to recognise",
            fix="add clips: without them nobody can be attacked, and nothing can be proven",
        )
    if max_top1 < 1 / people:
        raise StudyError(
            f"a cap of {max_top1:g} on top-1 among {people} people",
            expected=f"at least {math.ceil(1e4 / people) / 1e4:g}, which is what guessing gives",
            fix="raise --max-top1, or use a corpus of more people",
        )
