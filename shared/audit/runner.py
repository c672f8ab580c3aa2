"""The audit of one modality: all attackers in all scenarios, over worker processes, the same whatever their number."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moretta.shared.audit.attackers.base import Attacker, attacker_names, get_attacker
from moretta.shared.audit.controls import check_attackers
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.embeddings import embed_once, encoders_for
from moretta.shared.audit.execute import Inputs, run_unit, scenarios_of, units_of
from moretta.shared.audit.measure import blank, failed
from moretta.shared.audit.protocol import SCENARIOS, SetName, TrialPlan, make_plan
from moretta.shared.audit.result import Result
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.core.workers import Pace, Progress, Workers, one_thread

CONSTANT_CLIPS = 8
"""Clips of each speaker in the constant anchor, half of them enrolled: more of equal clips add nothing."""


@dataclass(frozen=True)
class AuditResult:
    """What one modality's audit found."""

    results: list[Result]
    plan: TrialPlan
    unused: dict[str, int]
    """Clips that could not be used, by reason: damaged, or not in both sets."""


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
        progress: called after every finished step.

    Raises:
        AttackersError: an unknown attacker.
        RunError: no clip to attack, or workers died.
    """
    if not len(released):
        raise RunError(f"no released {released.modality} clip to attack", expected="at least two speakers' clips")
    wanted = dict.fromkeys(attackers) if attackers else attacker_names()
    chosen = [cls for name in wanted if (cls := get_attacker(name)).modality == released.modality]
    with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-audit-") as scratch, Workers(workers) as pool:
        sets, unused = matched(original, released, Path(scratch), progress=progress)
        plan = make_plan(sets["released"].clips, seed=seed)
        if not plan.enrol:
            raise RunError("no speaker with two clips", expected="at least two clips of each of two speakers")
        sets["constant"] = ClipSet.constant(sets["released"])
        unfit = {cls: reason for cls in chosen if (reason := _unfit(cls, sets["released"])) is not None}
        here = [cls for cls in chosen if cls not in unfit]
        sets = embed_once(encoders_for(here), sets, Path(scratch), cache_dir, pool, progress=progress)
        inputs = Inputs(sets, plan, seed, bootstrap)
        results = [result for cls, reason in unfit.items() for result in _not_run(cls, inputs, reason)]
        small = _constant_inputs(inputs)
        units = [unit for cls in here for unit in units_of(cls, set(sets))]
        # Networks first: a long unit started last would leave the other workers idle.
        units.sort(key=lambda u: (-get_attacker(u.attacker).cost, u.train == "constant"))
        tasks = [(small if unit.train == "constant" else inputs, unit) for unit in units]
        if progress is not None and tasks:
            progress("attackers done", 0, len(tasks))
        for done, (index, found) in enumerate(pool.run(run_unit, tasks), start=1):
            results += found
            if progress is not None:
                progress(f"{units[index].attacker} ({units[index].name})", done, len(tasks))
    checked = check_attackers(results, originals=original is not None)
    attacker_order = {cls.name: index for index, cls in enumerate(chosen)}
    scenario_order = {scenario.name: index for index, scenario in enumerate(SCENARIOS)}

    def order(r: Result) -> tuple[object, ...]:
        place = attacker_order[r.attacker], scenario_order[r.scenario]  # type: ignore[index]
        return *place, r.pooled, r.metric, r.subset != "all", r.subset

    return AuditResult(sorted(checked, key=order), plan, unused)


def matched(
    original: ClipSet | None, released: ClipSet, scratch: Path, *, progress: Progress | None = None
) -> tuple[dict[SetName, ClipSet], dict[str, int]]:
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
    alike = released.modality == "voice" and not released.holds_codes
    coefficients = released.mfcc(0).shape[1] if alike else None
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
    keep: list[int] = []
    for side in (inputs.plan.enrol, inputs.plan.trial):
        count: Counter[str] = Counter()
        for row in inputs.rows_of(side):
            speaker = inputs.clips.clips[row].speaker
            count[speaker] += 1
            if count[speaker] <= CONSTANT_CLIPS // 2:
                keep.append(int(row))
    sets = {name: clips.subset(sorted(keep)) for name, clips in inputs.sets.items()}
    return replace(inputs, sets=sets, plan=make_plan(sets["constant"].clips, seed=inputs.seed))


def _unfit(cls: type[Attacker], released: ClipSet) -> str | None:
    """Why this attacker cannot attack these clips, or None."""
    if released.holds_codes and cls.encoder:
        return "codes were released: there is no sound for it to read"
    return cls.missing()


def _not_run(cls: type[Attacker], inputs: Inputs, reason: str) -> list[Result]:
    sets, enrolled = set(inputs.sets), len(inputs.clips.speakers)
    names = [s.name for unit in units_of(cls, sets) for s in scenarios_of(cls, unit, sets)]
    return [result for name in names for result in failed(blank(cls, name, speakers=enrolled, clips=0), reason)]
