"""The audit of one modality: all attackers in all scenarios, and which of their results the two anchors allow."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.audit import measure
from moretta.shared.audit.attackers.base import Attacker, Embedder, PoolIdentifier, attacker_names, get_attacker
from moretta.shared.audit.attackers.open_set import embed_once
from moretta.shared.audit.blinding import MOST_LEFT_OUT, outlying
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.execute import Inputs, run_unit, scenarios_of, units_of
from moretta.shared.audit.kept_units import shared_places
from moretta.shared.audit.metrics.scores import METRICS
from moretta.shared.audit.protocol import SCENARIOS, SetName, TrialPlan, make_plan
from moretta.shared.audit.result import Result
from moretta.shared.audit.run_attacks import run_all
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.core.workers import Pace, Progress, Workers, one_thread

CONSTANT_CLIPS = 8
"""Clips of each speaker in the constant anchor, half of them enrolled: more of equal clips add nothing."""
CHANCE_TOLERANCE = 0.05
"""How far from chance the interval on constant data may end: with ties and few speakers it has no width."""
NO_ORIGINALS = (
    "no originals were given, so the unprotected anchor could not be run: checked by the constant anchor only"
)
MANY_OUTLYING = "many-outlying"
NOTHING_TO_READ = "codes were released: there is no sound or picture for it to read"
_ANCHOR_METRICS = {"identification": "top1", "verification": "eer"}


@dataclass(frozen=True)
class AuditResult:
    """The audit of one modality."""

    results: list[Result]
    plan: TrialPlan
    unused: dict[str, int]
    """Clips that could not be used, by reason: damaged, not in both sets, or of people who lie far outside."""
    outlying: frozenset[str] = frozenset()
    """Pseudonyms of those people."""


def audit(
    original: ClipSet | None,
    released: ClipSet,
    *,
    attackers: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    units_dir: Path | None = None,
    scores_dir: Path | None = None,
    public: Mapping[SetName, ClipSet] | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Attack one modality. Results are the same whatever the number of workers.

    Args:
        original: the same clips before anonymization, under the same pseudonyms; None without them.
        released: the clips that left the sites.
        attackers: names; those of the other modality are passed over. Empty means all that are registered.
        seed: of trial lists, training and bootstraps.
        bootstrap: resamples of each interval; 0 leaves intervals out.
        workers: processes; None takes one for each CPU, 1 stays in this process.
        cache_dir: where embeddings of untrained encoders are kept, by content; None keeps them for this run only.
        units_dir: where results of attackers are kept, by all that they depend on; None keeps none.
        scores_dir: where the scores of comparisons are kept, for `collect_scores`; None keeps none.
        public: voices of public people before and after the same anonymizer, for attackers that learn from them first.
        progress: called after every finished step.

    Raises:
        AttackersError: an unknown attacker.
        RunError: no clip to attack, or workers died.
    """
    if not len(released):
        raise RunError(f"no released {released.modality} clip to attack", expected="at least two speakers' clips")
    wanted = dict.fromkeys(attackers) if attackers else attacker_names()
    chosen = [cls for name in wanted if (cls := get_attacker(name)).modality == released.modality]
    results: list[Result] = []
    with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-audit-") as scratch, Workers(workers) as pool:
        sets, unused, far = matched(original, released, Path(scratch), pool, progress=progress)
        plan = make_plan(sets["released"].clips, seed=seed)
        if not plan.enrol:
            raise RunError("no speaker with two clips", expected="at least two clips of each of two speakers")
        sets["constant"] = ClipSet.constant(sets["released"])
        here: list[type[Attacker]] = []
        for cls in chosen:
            reason = NOTHING_TO_READ if sets["released"].holds_codes and cls.encoder else cls.missing()
            if reason is None:
                here.append(cls)
                continue
            names = [s.name for unit in units_of(cls, set(sets)) for s in scenarios_of(cls, unit, set(sets))]
            results += measure.failed(cls, names, reason, speakers=len(sets["released"].speakers), clips=0)
        encoders = list(dict.fromkeys(cls.encoder for cls in here if cls.encoder))
        sets = embed_once(encoders, sets, Path(scratch), cache_dir, pool, progress=progress)
        known = _of_public(public or {}, sets, Path(scratch), pool)
        inputs = Inputs(sets, plan, seed, bootstrap, scores_dir, known)
        small = constant_inputs(inputs)
        units = [unit for cls in here for unit in units_of(cls, set(sets))]
        # Networks first: a long unit started last would leave the other workers idle.
        units.sort(key=lambda u: (-get_attacker(u.attacker).cost, u.train == "constant"))
        tasks = [(small if unit.train == "constant" else inputs, unit) for unit in units]
        labels = [f"{unit.attacker} ({unit.name})" for unit in units]
        how: dict[str, Any] = {"what": "attackers done", "pool": pool, "progress": progress}
        results += run_all(run_unit, tasks, labels, shared=shared_places(tasks, units_dir), **how)
    attacker_order = {cls.name: index for index, cls in enumerate(chosen)}
    scenario_order = {scenario.name: index for index, scenario in enumerate(SCENARIOS)}

    def order(r: Result) -> tuple[object, ...]:
        place = attacker_order[r.attacker], scenario_order[r.scenario]
        return *place, r.pooled, r.metric, r.subset != "all", r.subset

    checked = _checked(results, originals=original is not None)
    if many := unused.pop(MANY_OUTLYING, 0):
        reason = (
            f"the released values of {many} people lie far outside those of the others: nobody can say who is usual"
        )
        checked = [result if result.is_anchor else result.invalidated(reason) for result in checked]
    checked = [r.model_copy(update={"left_out": len(far)}) if far and not r.is_anchor else r for r in checked]
    return AuditResult(sorted(checked, key=order), plan, unused, far)


def _of_public(
    public: Mapping[SetName, ClipSet], sets: Mapping[SetName, ClipSet], scratch: Path, pool: Workers
) -> dict[SetName, ClipSet]:
    """Public clips that have the form and size of the attacked clips, with their small views."""
    if sets["released"].modality != "voice":
        return {}
    found: dict[SetName, ClipSet] = {}
    for name, clips in public.items():
        if name in sets:
            like = sets[name].mfcc(0).shape[1]
            coefficients = None if clips.holds_codes else like
            seen = clips.with_views(scratch, pool=pool, coefficients=coefficients)
            if len(seen) and seen.mfcc(0).shape[1] == like and seen.holds_codes == sets[name].holds_codes:
                found[name] = seen
    return found


def matched(
    original: ClipSet | None, released: ClipSet, scratch: Path, pool: Workers, *, progress: Progress | None = None
) -> tuple[dict[SetName, ClipSet], dict[str, int], frozenset[str]]:
    """Both sets with their small views, cut to the clips that both have, in the order of the pseudonyms.

    Returns:
        The sets, without originals if there are none; how many clips could not be used, by reason; and the people who
        lie far outside the others. Where these are many they are counted as `MANY_OUTLYING`, and none is left out.

    Raises:
        ReleaseError: no released clip can be read.
        RunError: no original has the pseudonym of a released clip.
    """
    pace = Pace(progress, f"released {released.modality} clips read", len(released))
    order = sorted(range(len(released)), key=lambda i: released.clips[i].clip)
    released = replace(released.subset(order), damaged=released.damaged).with_views(scratch, pool=pool, step=pace.step)
    if not len(released):
        raise ReleaseError(f"no readable {released.modality} clip in the release: {dict(released.damaged)}")
    unused, far = dict(released.damaged), outlying_people(released)
    if len(far) > MOST_LEFT_OUT * len(released.speakers):
        unused[MANY_OUTLYING], far = len(far), frozenset()
    if far:
        inside = released.without(far)
        unused["outlying"] = len(released) - len(inside)
        released = inside
    if original is None:
        return {"released": released}, unused, far
    matching = original.among(released)
    if not len(matching):
        raise RunError(
            "no original has the pseudonym of a released clip",
            expected="the originals of these releases, under the key of the site that made them",
            fix="check --corpus and --key",
        )
    alike = released.modality == "voice" and not released.holds_codes
    coefficients = released.mfcc(0).shape[1] if alike else None
    pace = Pace(progress, f"original {released.modality} clips read", len(matching))
    matching = matching.with_views(scratch, pool=pool, coefficients=coefficients, step=pace.step)
    both = released.among(matching)
    if lost := len(released) - len(both):
        unused["no-original"] = lost
    return {"original": matching, "released": both}, unused, far


def outlying_people(released: ClipSet) -> frozenset[str]:
    """Pseudonyms of people whose statistics lie far outside those of the others. Pictures have bounds already."""
    if released.holds_pictures:
        return frozenset()
    values = np.stack([released.statistics(index) for index in range(len(released))])
    return frozenset(np.array(released.speakers)[outlying(values, released.labels)].tolist())


def constant_inputs(inputs: Inputs) -> Inputs:
    """The constant anchor on few clips of each speaker, with its own plan."""
    keep: list[int] = []
    for side in inputs.sides:
        count: Counter[str] = Counter()
        for row in side.tolist():
            speaker = inputs.clips.clips[row].speaker
            count[speaker] += 1
            if count[speaker] <= max(CONSTANT_CLIPS // 2, measure.POOLED[0]):
                keep.append(row)
    sets = {name: clips.subset(sorted(keep)) for name, clips in inputs.sets.items()}
    return replace(inputs, sets=sets, plan=make_plan(sets["constant"].clips, seed=inputs.seed))


def _checked(results: Iterable[Result], *, originals: bool) -> list[Result]:
    """The results of one modality, invalid where an anchor shows that the attacker does not work.

    `originals`: whether there was open data to check attackers on.
    """
    by_attacker: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_attacker[result.attacker].append(result)
    checked = []
    for name, own in by_attacker.items():
        cls = get_attacker(name)
        fewest = measure.POOLED[0] if issubclass(cls, PoolIdentifier) else 1
        anchors = {(r.scenario, r.metric): r for r in own if r.subset == "all" and r.pooled == fewest}
        reasons = {family: _broken(cls, anchors, family, originals) for family in _ANCHOR_METRICS}
        if not (issubclass(cls, Embedder) and cls.trainable):
            # One model serves both families: if it fails one anchor, neither counts.
            reasons = dict.fromkeys(reasons, reasons["identification"] or reasons["verification"])
        for result in own:
            # Pooled verification claims come from the ranking, and stand or fall with it.
            of_ranking = result.pooled > 1 or METRICS.get(result.metric).kind == "ranking"
            reason = reasons["identification" if of_ranking else "verification"]
            if not result.invalid and reason:
                checked.append(result.invalidated(reason))
            elif not result.invalid and not originals:
                checked.append(result.model_copy(update={"reason": NO_ORIGINALS}))
            else:
                checked.append(result)
    return checked


def _broken(cls: type[Attacker], anchors: dict[tuple[str, str], Result], family: str, originals: bool) -> str:
    """Which anchor the attacker failed; empty if it passed."""
    metric = _ANCHOR_METRICS[family]
    for scenario in ("unprotected", "constant") if originals else ("constant",):
        found = anchors.get((scenario, metric))
        if found is None or found.value is None or found.chance is None:
            return f"it has no figure on {scenario} data: {'it was not run' if found is None else found.reason}"
        value, chance = found.value, found.chance
        low, high = (value if end is None else end for end in (found.low, found.high))
        if scenario == "constant":
            if not low - CHANCE_TOLERANCE <= chance <= high + CHANCE_TOLERANCE:
                return f"it finds identity in constant data: {metric} {value:.3f} there, chance {chance:.3f}"
        elif family == "verification":
            if value > cls.max_unprotected_eer:
                limit = f"at most {cls.max_unprotected_eer} wanted"
                return f"it cannot break unprotected data: EER {value:.3f} there, {limit}"
        # Clearly above chance: the whole interval, if there is one
        elif not (low > chance if found.low is not None else clearly_above(value, chance)):
            return f"it cannot break unprotected data: top-1 {value:.3f} there, chance {chance:.3f}"
    return ""


def clearly_above(value: float, chance: float) -> bool:
    """Whether a top-1 without an interval says that an attacker works: twice chance, or halfway to certainty."""
    return value >= min(2 * chance, (1 + chance) / 2)
