"""What `moretta choose` tries, what an audit says of each candidate, and the rule by which one is chosen.

A candidate is an anonymizer with its settings: one release of one site, and its audit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moretta.deploy.sweep.grid import load_grid, make_grid
from moretta.deploy.sweep.jobs import SweepPlan, plan_sweep
from moretta.deploy.sweep.sweep_results import CellAudit
from moretta.shared.audit.result import Result, strongest, strongest_of_each
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
ALL_INVALID = "every attacker is invalid: nothing is known of what it leaks"
NOT_EVALUATED = "no utility evaluator that is trained on releases could run"
BELOW_CHANCE = (
    "every attacker is wrong more often than guessing is, intervals included: "
    "that is a leak, which an attacker with reversed decisions would find"
)
FEWER_EMOTIONS = "not every emotion was released: its UAR is of an easier task than the others'"


class Candidate(BaseModel):
    """One anonymizer with its settings, and what an audit found in its release. None is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    modality: Modality
    section: dict[str, Any]
    """Of the study file, without what is its default."""
    uar: float | None = None
    """Emotion, by the best utility evaluator that was trained on releases of other speakers."""
    uar_low: float | None = None
    uar_high: float | None = None
    uar_chance: float | None = None
    evaluator: str = ""
    top1: float | None = None
    """Of the strongest attacker on single clips that is valid."""
    top1_upper: float | None = None
    """What is held against the cap: the largest upper end of the intervals of all valid attackers."""
    top1_chance: float | None = None
    top1_by: str = ""
    attackers: int = 0
    """How many were valid."""
    top1_pooled: float | None = None
    """Of the strongest attacker that knows `pooled` clips to be of one person. No cap is held against it."""
    pooled: int | None = None
    eer: float | None = None
    eer_by: str = ""
    excluded: str = ""
    """Why it cannot be chosen whatever the cap is; empty if it can."""


class Choice(BaseModel):
    """Which of the candidates was chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_top1: float
    chosen: Candidate | None
    nearest: Candidate | None
    """Where none keeps the cap: the one that comes nearest to it. None if one is chosen, or none can be."""
    candidates: tuple[Candidate, ...]

    @property
    def shown(self) -> Candidate | None:
        """The one whose audit is the proof."""
        return self.chosen or self.nearest


def choose(candidates: Sequence[Candidate], max_top1: float) -> Choice:
    """The best emotion UAR of those whose `top1_upper` is at most `max_top1`.

    Equal UARs go to the smaller upper end, then to the smaller top-1, then to the one that comes first. Nearest to a
    cap that none keeps is the smallest upper end; of equal ones, the best UAR.
    """
    able = [  # (candidate, UAR, upper end)
        (c, c.uar, c.top1_upper)
        for c in candidates
        if not c.excluded and c.uar is not None and c.top1_upper is not None
    ]
    keeping = [each for each in able if each[2] <= max_top1]
    chosen = min(keeping, key=lambda each: (-each[1], each[2], each[0].top1 or 0.0), default=(None,))[0]
    nearest = None if chosen else min(able, key=lambda each: (each[2], -each[1]), default=(None,))[0]
    return Choice(max_top1=max_top1, chosen=chosen, nearest=nearest, candidates=tuple(candidates))


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
        corpus: folder of the clips of the site.
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


def weigh(
    name: str, study: Study, audited: CellAudit | None, *, modality: Modality, emotions: int, why: str = ""
) -> Candidate:
    """Put a candidate together.

    Args:
        name: its name in the table.
        study: the one that its release was made by.
        audited: what attackers and utility evaluators found; None if that failed.
        modality: of voice and face, the one that is chosen for.
        emotions: how many occur in the corpus.
        why: it failed.
    """
    known: dict[str, Any] = {"name": name, "modality": modality, "section": section_of(study, modality)}
    if audited is None:
        return Candidate(**known, excluded=why or "its audit failed")
    if not_run := audited.not_run.get(modality):
        return Candidate(**known, excluded=not_run)
    found = Candidate(**known, **_attacked(audited.rows, modality), **_evaluated(audited.utility, modality))
    return found.model_copy(update={"excluded": _excluded(found, emotions)})


def section_of(study: Study, modality: Modality) -> dict[str, Any]:
    """`[voice]` or `[face]` of a study file that makes the same release; what is the default is left out."""
    section = study.section(modality)
    plain = type(section)().model_dump(mode="json")
    return {key: value for key, value in section.model_dump(mode="json").items() if value != plain[key]}


def _excluded(found: Candidate, emotions: int) -> str:
    if found.top1 is None:
        return ALL_INVALID
    if (found.top1_upper or 0.0) < (found.top1_chance or 0.0):
        return BELOW_CHANCE
    if found.uar is None:
        return NOT_EVALUATED
    return FEWER_EMOTIONS if (found.uar_chance or 0.0) > 1.001 / emotions else ""


def _attacked(results: Sequence[Result], modality: Modality) -> dict[str, Any]:
    mine = [r for r in results if r.modality == modality and not r.is_anchor]
    best = {r.metric: r for r in strongest_of_each(mine)}
    if (top1 := best.get("top1")) is None:
        return {}
    single = [r for r in mine if r.metric == "top1" and r.is_whole]
    found: dict[str, Any] = {
        "top1": top1.value,
        "top1_upper": max(max(r.high or 0.0, r.value or 0.0) for r in single),  # without an interval, the figure
        "top1_chance": top1.chance,
        "top1_by": f"{top1.attacker} ({top1.scenario})",
        "attackers": len({r.attacker for r in single}),
    }
    pooled = strongest(r for r in mine if r.metric == "top1" and r.subset == "all" and r.pooled > 1)
    if pooled is not None:
        found |= {"top1_pooled": pooled.value, "pooled": pooled.pooled}
    if (eer := best.get("eer")) is not None:
        found |= {"eer": eer.value, "eer_by": f"{eer.attacker} ({eer.scenario})"}
    return found


def _evaluated(results: Sequence[Result], modality: Modality) -> dict[str, Any]:
    best = strongest(r for r in results if r.modality == modality and r.scenario == "semi-informed")
    if best is None:
        return {}
    interval = {"uar_low": best.low, "uar_high": best.high}
    return {"uar": best.value, **interval, "uar_chance": best.chance, "evaluator": best.attacker}
