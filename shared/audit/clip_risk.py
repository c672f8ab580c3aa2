"""How easily each clip, and each person, is recognised: a quick audit of one site's own release, clip by clip.

The audit proper says how well attackers do on the whole. A steward decides about single clips. So every clip is tried:
attackers that know one half of each speaker's clips attack the other half, and then the other way round.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from moretta.shared.audit.attackers.base import get_attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.execute import MIN_SPEAKERS, Inputs, Unit, possible, train_and_score, units_of
from moretta.shared.audit.metrics.identification import hits
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.result import failure
from moretta.shared.audit.runner import clearly_above, matched
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Progress, Workers, one_thread

QUICK: Mapping[Modality, tuple[str, ...]] = {
    "voice": ("voice-logistic", "voice-likeness", "voice-gmm"),
    "face": ("face-logistic", "face-likeness"),
}
"""Attackers that need no download and take seconds on a site's clips. The study's audit has many more."""


@dataclass(frozen=True)
class ClipAttack:
    """One attacker in one scenario, on every clip."""

    modality: Modality
    attacker: str
    scenario: str
    recognised: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Pseudonym of a clip -> 1 if its own speaker is ranked first, 0 if not, between where scores tie."""
    reason: str = ""
    """The reason why the attack does not count; empty if it does."""

    @property
    def top1(self) -> float | None:
        """Share of all clips that it recognises."""
        return fmean(self.recognised.values()) if self.recognised else None


@dataclass(frozen=True)
class ClipRisks:
    """Results of attacks by clip and by person."""

    attacks: tuple[ClipAttack, ...]
    speaker_of: Mapping[str, str]
    """Pseudonym of a clip -> pseudonym of its speaker."""
    outlying: frozenset[str] = frozenset()
    """Speakers whose release lies so far from all others' that no attack is needed: their risk is 1."""

    @property
    def valid(self) -> list[ClipAttack]:
        """The attacks that count."""
        return [attack for attack in self.attacks if not attack.reason]

    @property
    def chance(self) -> float | None:
        """Share of clips that a guess recognises; None without any valid attack."""
        tried = {self.speaker_of[clip] for attack in self.valid for clip in attack.recognised}
        return 1 / len(tried) if tried else None

    def of_clip(self, clip: str) -> float | None:
        """Share of the attacks on its voice, or on its face if more of those do, that recognise its speaker.

        None if none could try.
        """
        return self._of([clip])

    def of_speaker(self, speaker: str) -> float | None:
        """The same of all clips of a person together.

        It is a mean over attacks, since one that names the same person for every clip recognises all of theirs.
        """
        return self._of([clip for clip, theirs in self.speaker_of.items() if theirs == speaker])

    def _of(self, clips: list[str]) -> float | None:
        if any(self.speaker_of.get(clip) in self.outlying for clip in clips):
            return 1.0
        found: dict[Modality, list[float]] = defaultdict(list)
        for attack in self.valid:
            found[attack.modality] += [attack.recognised[clip] for clip in clips if clip in attack.recognised]
        return max((fmean(each) for each in found.values() if each), default=None)


def clip_risks(
    sets: Iterable[tuple[ClipSet, ClipSet]], *, seed: int = 0, progress: Progress | None = None
) -> ClipRisks:
    """Attack each clip of a release.

    An attacker that cannot recognise speakers in the originals does not count, as in the audit: it would only seem
    that nobody can.

    Args:
        sets: originals and released clips of each modality, under the same pseudonyms.
    """
    attacks: list[ClipAttack] = []
    speaker_of: dict[str, str] = {}
    outlying: set[str] = set()
    for original, released in sets:
        speaker_of |= {clip.clip: clip.speaker for clip in released.clips}
        names = QUICK[released.modality]
        with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-risk-") as scratch, Workers(1) as pool:
            try:
                views, _, far = matched(original, released, Path(scratch), pool, progress=progress)
            except (ReleaseError, RunError) as error:
                attacks += [ClipAttack(released.modality, n, "semi-informed", reason=failure(error)) for n in names]
                continue
            outlying |= far
            plan = make_plan(views["released"].clips, seed=seed)
            halves = (plan, replace(plan, enrol=plan.trial, trial=plan.enrol))
            both = [Inputs(views, each, seed, 0) for each in halves]
            for number, name in enumerate(names, start=1):
                attacks += _attacked(name, released.modality, both)
                if progress is not None:
                    progress(f"{released.modality} attackers done", number, len(names))
    return ClipRisks(tuple(attacks), speaker_of, frozenset(outlying))


def _attacked(name: str, modality: Modality, both: list[Inputs]) -> list[ClipAttack]:
    """One attacker in the scenarios that are about a release; whatever goes wrong is a reason, and no exception."""
    if both[0].enrolled < MIN_SPEAKERS:
        reason = f"{both[0].enrolled} speakers with two clips or more, at least {MIN_SPEAKERS} are needed"
        return [ClipAttack(modality, name, "semi-informed", reason=reason)]
    found: dict[str, dict[str, float]] = defaultdict(dict)
    reason = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few clips, which the check on originals shows better
            for inputs in both:
                for unit in units_of(get_attacker(name), set(inputs.sets)):
                    for scenario, recognised in _recognised(inputs, unit).items():
                        found[scenario] |= recognised
    except Exception as error:
        reason = failure(error)
    chance = 1 / both[0].enrolled
    opened = found.pop("unprotected", {})
    if not reason and (not opened or not clearly_above(value := fmean(opened.values()), chance)):
        share = f"top-1 {value:.3f} there, chance {chance:.3f}" if opened else "it was not run"
        reason = f"it cannot break unprotected data: {share}"
    if not found:
        return [ClipAttack(modality, name, "semi-informed", reason=reason)]
    return [ClipAttack(modality, name, scenario, recognised, reason) for scenario, recognised in found.items()]


def _recognised(inputs: Inputs, unit: Unit) -> dict[str, dict[str, float]]:
    scenarios, _ = possible(inputs, unit)
    if not scenarios:
        return {}
    scored = train_and_score(get_attacker(unit.attacker), inputs, unit, scenarios)
    return {s.name: dict(zip(inputs.plan.trial, hits(r, 1).tolist(), strict=True)) for s, r, _ in scored}
