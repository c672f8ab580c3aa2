"""Candidates of `moretta choose`, the rule by which one is chosen, and the files with the result.

A candidate is an anonymizer with its settings: one release of one site, and its audit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moretta.deploy.runtime.run_folder import Notify
from moretta.deploy.sweep.choice_page import CHOICE_PAGE, render_choice
from moretta.deploy.sweep.grid import load_grid, make_grid
from moretta.deploy.sweep.jobs import SweepPlan, plan_sweep
from moretta.deploy.sweep.run_sweep import Worked, at_work, do_missing
from moretta.deploy.sweep.sweep_results import CellAudit, ResultFolder
from moretta.shared.audit.report.page import render_audit
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.audit.result import of_emotion, strongest, strongest_of_each
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ExitCode, StudyError
from moretta.shared.core.printable import to_csv, to_toml
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import GateSection

SHIPPED = Path(__file__).parent  # folder of the candidates that come with Moretta, one file for each modality
CHOICE_JSON, CHOICE_CSV, STUDY_FILE = "choice.json", "choice.csv", "study.toml"
AUDIT_JSON, AUDIT_PAGE = "audit.json", "audit.html"
_STUDY_KEYS = {"voice": ("public_speech", "coefficients"), "face": ("weights", "epochs", "training_faces", "preset")}
"""Options of a study's anonymizer that candidates do not vary."""
ALL_INVALID = "every attacker is invalid: nothing is known of what it leaks"
NOT_EVALUATED = "no utility evaluator that is trained on releases could run"
BELOW_CHANCE = (
    "every attacker is wrong more often than guessing is, intervals included: "
    "that is a leak, which an attacker with reversed decisions would find"
)
FEWER_EMOTIONS = "not every emotion was released: its UAR is of an easier task than the others'"
CAUTION = (
    "Chosen by its figures on these people, out of several: on other people it may be worse. "
    "Audit a release of other people, too."
)


class Candidate(BaseModel):
    """One anonymizer with its settings, and what an audit found in its release. None is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    modality: Modality
    section: dict[str, Any]  # of the study file, without what is its default
    uar: float | None = None  # emotion, by the best utility evaluator that was trained on releases of other speakers
    uar_low: float | None = None
    uar_high: float | None = None
    uar_chance: float | None = None
    evaluator: str = ""
    top1: float | None = None  # of the strongest attacker on single clips that is valid
    top1_upper: float | None = None
    """The figure that the cap limits: the largest upper end of the intervals of all valid attackers."""
    top1_chance: float | None = None
    top1_by: str = ""
    attackers: int = 0  # how many were valid
    top1_pooled: float | None = None
    """Top-1 of the strongest attacker that knows `pooled` clips to be of one person. The cap does not limit it."""
    pooled: int | None = None
    eer: float | None = None
    eer_by: str = ""
    excluded: str = ""  # why it cannot be chosen whatever the cap is; empty if it can


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
        """The candidate whose audit is shown."""
        return self.chosen or self.nearest

    def code(self, worked: Worked) -> ExitCode:
        """Exit code. If none of the tried candidates keeps the cap, one whose jobs failed might have."""
        return ExitCode.OK if self.chosen else ExitCode.RUN_FAILED if worked.failures else ExitCode.GATE


def choose(candidates: Sequence[Candidate], max_top1: float) -> Choice:
    """The best emotion UAR of those whose `top1_upper` is at most `max_top1`.

    Equal UARs go to the smaller upper end, then to the smaller top-1, then to the one that comes first. Nearest to a
    cap that none keeps is the smallest upper end; of equal ones, the best UAR.
    """
    able = [
        (c.uar, c.top1_upper, c)
        for c in candidates
        if not c.excluded and c.uar is not None and c.top1_upper is not None
    ]
    keeping = [(uar, upper, c) for uar, upper, c in able if upper <= max_top1]
    chosen = min(keeping, key=lambda each: (-each[0], each[1], each[2].top1 or 0.0))[2] if keeping else None
    nearest = min(able, key=lambda each: (each[1], -each[0]))[2] if able and not keeping else None
    return Choice(max_top1=max_top1, chosen=chosen, nearest=nearest, candidates=tuple(candidates))


def plan_choice(
    corpus: Path,
    *,
    modality: Modality,
    max_top1: float,
    candidates: Path | None,
    study: Study,
    attackers: Sequence[str],
    command: str,
) -> SweepPlan:
    """Find out what has to be done.

    Args:
        candidates: a grid file; None takes the one that comes with Moretta.
        study: seed, labels, public data and attackers are taken from it.
        attackers: names, in place of the study's; empty means those, or all.

    Raises:
        CorpusError: the corpus cannot be used.
        StudyError: nobody in it can be re-identified by this modality, the cap is under what guessing gives, or the
            study, a candidate or an attacker cannot be used.
    """
    from moretta.shared.audit.attackers import attacker_names, get_attacker

    known = [name for name in attacker_names() if get_attacker(name).modality == modality]
    if unknown := [name for name in attackers or study.audit.attackers if name not in known]:
        found = f"{', '.join(unknown)} named as attackers of {modality}"
        raise StudyError(found, expected=f"one or more of: {', '.join(known)}")
    check_speakers(read_corpus(corpus, labels=study.labels, classes=study.classes), modality, max_top1)
    grid = load_grid(candidates or SHIPPED / f"candidates-{modality}.toml")
    if grid.study is not None or grid.base or grid.folds != "one" or len(grid.seeds) > 1:
        found = f"candidates in {candidates} with a study, folds or several seeds of their own"
        raise StudyError(found, expected="curves and axes alone", fix="name the study with --study")
    made = make_grid(grid.model_copy(update={"base": base_of(study, modality, attackers)}))
    plan = plan_sweep(made, [corpus], command)
    return replace(plan, cells=tuple(replace(cell, training=()) for cell in plan.cells))


def of_modality(corpus: Corpus, modality: Modality) -> list[Clip]:
    """The clips that have sound, or video."""
    return [clip for clip in corpus.clips if (has_sound(clip) if modality == "voice" else clip.video is not None)]


def base_of(study: Study, modality: Modality, attackers: Sequence[str]) -> dict[str, Any]:
    """Base of a grid for all candidates: one site, one modality, and the settings of a study that are not varied."""
    section = study.model_dump(exclude_unset=True).get(modality, {})
    options = {key: value for key, value in section.get("options", {}).items() if key in _STUDY_KEYS[modality]}
    return {
        "seed": study.seed,
        "labels": study.labels,
        "classes": study.classes,
        "sites": 1,
        modality: {"options": options} | {key: section[key] for key in section if key == "fps"},
        "face" if modality == "voice" else "voice": {"enabled": False},
        "audit": {"bootstrap": study.audit.bootstrap, "attackers": tuple(attackers) or study.audit.attackers},
    }


def check_speakers(corpus: Corpus, modality: Modality, max_top1: float = 1.0) -> None:
    """Refuse, with a StudyError, a corpus in which nobody can be attacked, or a cap that guessing would break."""
    clips = Counter(clip.speaker for clip in of_modality(corpus, modality))
    people = sum(count > 1 for count in clips.values())
    if not clips:
        found = f"no clip of the corpus has {'sound' if modality == 'voice' else 'video'}"
        raise StudyError(found, expected=f"clips with {modality}", fix="name the other with --modality")
    if people < 2:
        found = f"{len(clips)} people with {modality}, of whom {people} with two clips or more"
        raise StudyError(
            found, expected="two clips of at least two people", fix="add clips: without them nobody can be attacked"
        )
    if max_top1 < 1 / people:
        found = f"a cap of {max_top1:g} on top-1 among {people} people"
        guessed = f"at least {math.ceil(1e4 / people) / 1e4:g}, which is what guessing gives"
        raise StudyError(found, expected=guessed, fix="raise --max-top1, or use a corpus of more people")


def weigh(
    name: str, study: Study, audited: CellAudit | None, *, modality: Modality, emotions: int, why: str = ""
) -> Candidate:
    """A candidate from what attackers and utility evaluators found in its release; None if that failed, by `why`.

    `study` is the one that its release was made by, and `emotions` how many occur in the corpus.
    """
    found: dict[str, Any] = {"name": name, "modality": modality, "section": section_of(study, modality)}
    if audited is None or (why := audited.not_run.get(modality, "")):
        return Candidate(**found, excluded=why or "its audit failed")
    mine = [r for r in audited.rows if r.modality == modality and not r.is_anchor]
    best = {r.metric: r for r in strongest_of_each(mine)}
    if (top1 := best.get("top1")) is not None:
        single = [r for r in mine if r.metric == "top1" and r.is_whole]
        found |= {
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
    used = strongest(r for r in of_emotion(audited.utility) if r.modality == modality and r.scenario == "semi-informed")
    if used is not None:
        found |= {"uar": used.value, "uar_low": used.low, "uar_high": used.high}
        found |= {"uar_chance": used.chance, "evaluator": used.attacker}
    made, excluded = Candidate(**found), ""
    if made.top1 is None:
        excluded = ALL_INVALID
    elif (made.top1_upper or 0.0) < (made.top1_chance or 0.0):
        excluded = BELOW_CHANCE
    elif made.uar is None:
        excluded = NOT_EVALUATED
    elif (made.uar_chance or 0.0) > 1.001 / emotions:
        excluded = FEWER_EMOTIONS
    return made.model_copy(update={"excluded": excluded})


def section_of(study: Study, modality: Modality) -> dict[str, Any]:
    """`[voice]` or `[face]` of a study file that makes the same release; what is the default is left out."""
    section = study.section(modality)
    plain = type(section)().model_dump(mode="json")
    return {key: value for key, value in section.model_dump(mode="json").items() if value != plain[key]}


def choose_anonymizer(
    plan: SweepPlan, out: Path, *, modality: Modality, max_top1: float, jobs: int | None, command: str, notify: Notify
) -> tuple[Choice, Worked]:
    """Do what is not done yet, choose, and write everything into `out`.

    Args:
        out: a new or empty folder, or that of an earlier choice, whose results are used again where they still hold.
        jobs: processes; None takes one for each CPU.
        command: how to do it again, for the page.
        notify: called with a line of text for every finished job.

    Raises:
        StudyError, RunError, Interrupted: as `sweep` does.
    """
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify)
        results = ResultFolder(out)
        candidates: list[Candidate] = []
        audits: dict[str, CellAudit | None] = {}
        for cell in plan.cells:
            name = cell.cell.label
            audits[name] = results.get(cell.audit, CellAudit) if cell.audit else None
            emotions = len({clip.label for clip in of_modality(cell.corpus, modality)})
            why = "; ".join(dict.fromkeys(worked.failures[j.key] for j in cell.jobs if j.key in worked.failures))
            candidates.append(weigh(name, cell.study, audits[name], modality=modality, emotions=emotions, why=why))
        choice = choose(candidates, max_top1)
        _write(out, choice, audits[choice.shown.name] if choice.shown else None, plan, command)
    return choice, worked


def _write(out: Path, choice: Choice, proof: CellAudit | None, plan: SweepPlan, command: str) -> None:
    """Write all files, each whole or not at all; what an earlier choice left and no longer holds is removed.

    `proof` is the audit of the candidate that is shown.
    """
    for stale in (STUDY_FILE, AUDIT_JSON, AUDIT_PAGE):
        (out / stale).unlink(missing_ok=True)
    corpus, seed = plan.cells[0].corpus, plan.cells[0].study.seed
    resamples = plan.cells[0].study.audit.bootstrap
    if choice.shown is not None and proof is not None:
        name = f"{choice.shown.name}, {corpus.name}"
        gate = check_gate(
            GateSection(), headlines(proof.rows, None), released=(choice.shown.modality,), resamples=resamples
        )
        about: dict[str, Any] = {"gate": gate, "name": name, "seed": seed, "synthetic": corpus.synthetic}
        page = render_audit(proof.rows, (), proof.utility, **about, command=command)
        audited = {
            "verdict": gate.model_dump(mode="json"),
            "candidate": choice.shown.name,
            "seed": seed,
            "audit": [row.model_dump(mode="json") for row in proof.rows],
            "utility": [row.model_dump(mode="json") for row in proof.utility],
        }
        write_atomic(out / AUDIT_PAGE, page)
        write_atomic(out / AUDIT_JSON, json.dumps(audited, indent=1, allow_nan=False) + "\n")
    if choice.chosen is not None:
        write_atomic(out / STUDY_FILE, study_text(choice.chosen))
    facts: dict[str, Any] = {
        "caution": CAUTION,
        "corpus": corpus.name,
        "synthetic": corpus.synthetic,
        "seed": seed,
        "warnings": plan.warnings,
        "command": command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    content = {**choice.model_dump(mode="json"), **facts, "versions": versions()}
    write_atomic(out / CHOICE_PAGE, render_choice(choice, **facts))
    write_atomic(out / CHOICE_CSV, _as_csv(choice))
    write_atomic(out / CHOICE_JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")


def study_text(chosen: Candidate) -> str:
    """The section that makes a study release by the chosen anonymizer, with what it was chosen by."""
    reached = f"emotion UAR {chosen.uar:.3f}, top-1 at most {chosen.top1_upper:.3f} by {chosen.attackers} attackers"
    return f"# {chosen.name}: {reached}.\n# {CAUTION}\n{to_toml({chosen.modality: chosen.section})}"


def _as_csv(choice: Choice) -> str:
    """One line for each candidate, in the order in which they were tried."""
    fields, lines = [name for name in Candidate.model_fields if name != "section"], []
    for candidate in choice.candidates:
        content = candidate.model_dump(mode="json")
        lines.append(["true" if candidate == choice.chosen else "false", *(content[name] for name in fields)])
    return to_csv(["chosen", *fields], lines)
