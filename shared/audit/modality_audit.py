"""The audit of one modality: all attackers in all scenarios, over worker processes, the same whatever their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from moretta.shared.audit.attackers.attacker_registry import Attacker, attacker_names, get_attacker, needs_sound
from moretta.shared.audit.audit_row import AuditRow
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.embeddings import embed_once, encoders_for
from moretta.shared.audit.execute import Inputs, Unit, run_unit, scenarios_of, units_of
from moretta.shared.audit.measure import Subject
from moretta.shared.audit.scenarios import SetName
from moretta.shared.audit.trial_plan import TrialPlan, make_plan
from moretta.shared.audit.validity import mark_invalid
from moretta.shared.audit.worker_pool import Workers, one_thread
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.core.pace import Pace, Progress

CONSTANT_CLIPS = 8
"""Clips of each speaker in the constant anchor: equal clips have nothing more to teach."""


@dataclass(frozen=True)
class AuditResult:
    """What one modality's audit found."""

    rows: list[AuditRow]
    plan: TrialPlan
    unused: dict[str, int]
    """Clips that could not be used, by reason: damaged, or not in both sets."""


def run_audit(
    original: ClipSet | None,
    released: ClipSet,
    *,
    attackers: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[AuditRow]:
    """All rows of `audit`, for callers that need no more."""
    return audit(
        original,
        released,
        attackers=attackers,
        seed=seed,
        bootstrap=bootstrap,
        workers=workers,
        cache_dir=cache_dir,
        progress=progress,
    ).rows


def audit(
    original: ClipSet | None,
    released: ClipSet,
    *,
    attackers: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Attack one modality.

    Args:
        original: the same clips before anonymization, under the same pseudonyms; None if they are not to be had.
        released: what left the sites.
        attackers: names; those of the other modality are passed over. Empty means all that are registered.
        seed: of trial lists, training and bootstraps.
        bootstrap: resamples of each interval; 0 leaves intervals out.
        workers: processes; None takes one for each CPU, 1 stays in this process.
        cache_dir: where embeddings of untrained encoders are kept, by content; None keeps them for this run only.
        progress: told of every finished step.

    Raises:
        AttackersError: an unknown attacker.
        RunError: no clip to attack, or workers died.
    """
    chosen = _chosen(attackers, released)
    with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-audit-") as scratch, Workers(workers) as pool:
        both, unused = matched(original, released, Path(scratch), progress=progress)
        sets: dict[SetName, ClipSet] = {name: clips for name, clips in both.items()}  # noqa: C416 - a wider key type
        plan = make_plan(sets["released"].clips, seed=seed)
        if not plan.enrol:
            raise RunError("no speaker with two clips", expected="at least two clips of each of two speakers")
        sets["constant"] = ClipSet.constant(sets["released"])
        unfit = {cls: reason for cls in chosen if (reason := _unfit(cls, sets["released"])) is not None}
        here = [cls for cls in chosen if cls not in unfit]
        sets = embed_once(encoders_for(here), sets, Path(scratch), cache_dir, pool, progress=progress)
        inputs = Inputs(sets, plan, seed, bootstrap)
        small = _constant_inputs(inputs)
        units = [unit for cls in here for unit in units_of(cls, set(sets))]
        tasks = [(small if unit.train == "constant" else inputs, unit) for unit in _slow_first(units)]
        rows: list[AuditRow] = [row for cls, reason in unfit.items() for row in _missing(cls, inputs, reason)]
        if progress is not None and tasks:
            progress("attackers done", 0, len(tasks))
        for done, (unit, found) in enumerate(_each(pool, tasks), start=1):
            rows += found
            if progress is not None:
                progress(f"{unit.attacker} ({unit.train})", done, len(tasks))
    order = {cls.name: index for index, cls in enumerate(chosen)}
    marked = mark_invalid(rows, originals=original is not None)
    return AuditResult(sorted(marked, key=lambda row: _order(row, order)), plan, unused)


def _chosen(names: Sequence[str], released: ClipSet) -> list[type[Attacker]]:
    if not len(released):
        raise RunError(f"no released {released.modality} clip to attack", expected="at least two speakers' clips")
    wanted = dict.fromkeys(names) if names else attacker_names()
    return [cls for name in wanted if (cls := get_attacker(name)).modality == released.modality]


def matched(
    original: ClipSet | None, released: ClipSet, scratch: Path, *, progress: Progress | None = None
) -> tuple[dict[Literal["original", "released"], ClipSet], dict[str, int]]:
    """Both sets with their small views, cut to the clips that both have, in the order of the pseudonyms.

    Returns:
        The sets, without originals if there are none; and how many clips could not be used, by reason.

    Raises:
        ReleaseError: no released clip can be read.
        RunError: no original has the pseudonym of a released clip.
    """
    pace = Pace(progress, f"released {released.modality} clips read", len(released))
    released = _ordered(released).with_views(scratch, step=pace.step)
    if not len(released):
        raise ReleaseError(f"no readable {released.modality} clip in the release: {dict(released.damaged)}")
    unused = dict(released.damaged)
    if original is None:
        return {"released": released}, unused
    names = {clip.clip for clip in released.clips}
    matching = _ordered(original.subset(i for i, clip in enumerate(original.clips) if clip.clip in names))
    if not len(matching):
        raise RunError(
            "no original has the pseudonym of a released clip",
            expected="the originals of these releases, under the key of the site that made them",
            fix="check --corpus and --key",
        )
    likened = released.modality == "voice" and not released.holds_codes
    coefficients = released.mfcc(0).shape[1] if likened else None
    pace = Pace(progress, f"original {released.modality} clips read", len(matching))
    matching = matching.with_views(scratch, coefficients=coefficients, step=pace.step)
    common = {clip.clip for clip in matching.clips}
    both = released.subset(i for i, clip in enumerate(released.clips) if clip.clip in common)
    if lost := len(released) - len(both):
        unused["no-original"] = lost
    return {"original": matching, "released": both}, unused


def _ordered(clips: ClipSet) -> ClipSet:
    order = sorted(range(len(clips)), key=lambda i: clips.clips[i].clip)
    return replace(clips.subset(order), damaged=clips.damaged)


def _constant_inputs(inputs: Inputs) -> Inputs:
    """The constant anchor on few clips of each speaker, with its own plan."""
    count: dict[str, int] = {}
    keep = []
    wanted = [(inputs.plan.enrol, CONSTANT_CLIPS // 2), (inputs.plan.trial, CONSTANT_CLIPS // 2)]
    for side, limit in wanted:
        count.clear()
        for row in inputs.rows_of(side):
            speaker = inputs.clips.clips[row].speaker
            count[speaker] = count.get(speaker, 0) + 1
            if count[speaker] <= limit:
                keep.append(int(row))
    sets = {name: clips.subset(sorted(keep)) for name, clips in inputs.sets.items()}
    return replace(inputs, sets=sets, plan=make_plan(sets["constant"].clips, seed=inputs.seed))


def _slow_first(units: list[Unit]) -> list[Unit]:
    """Networks first: a long unit started last would leave the other workers idle."""
    return sorted(units, key=lambda u: (-get_attacker(u.attacker).cost, u.train == "constant"))


def _each(pool: Workers, tasks: list[tuple[Inputs, Unit]]) -> Iterator[tuple[Unit, list[AuditRow]]]:
    for index, found in pool.run(run_unit, tasks):
        yield tasks[index][1], found


def _unfit(cls: type[Attacker], released: ClipSet) -> str | None:
    """Why this attacker cannot be asked about these clips, or None."""
    if released.holds_codes and needs_sound(cls):
        return "codes were released: there is no sound that it could listen to"
    return cls.missing()


def _missing(cls: type[Attacker], inputs: Inputs, reason: str) -> list[AuditRow]:
    sets, enrolled = set(inputs.sets), len(inputs.clips.speakers)
    names = [s.name for unit in units_of(cls, sets) for s in scenarios_of(cls, unit, sets)]
    return [row for name in names for row in Subject(cls, name, enrolled, 0).invalid(reason)]


def _order(row: AuditRow, attackers: dict[str, int]) -> tuple[object, ...]:
    from moretta.shared.audit.scenarios import SCENARIOS

    scenario = [s.name for s in SCENARIOS].index(row.scenario)
    return attackers[row.attacker], scenario, row.pooled, row.metric, row.subset != "all", row.subset
