"""The protocol: what an attacker knows in each scenario, and which clips are enrolled, tried and compared.

Trial plans are fixed by a seed and saved with the audit. Enrolment and trial differ in sentence wherever the corpus has
two, so that what was said does not give away the speaker; compared pairs differ in emotion as well, as far as there are
such pairs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from moretta.shared.core.atomic import write_atomic
from moretta.shared.release.release_format import ReleasedClip

SetName = Literal["original", "released", "constant"]
T = TypeVar("T")


@dataclass(frozen=True)
class Scenario:
    """The sets that an attacker is enrolled, tried and trained on.

    Encoders used as they are were trained on public data: `train` does not concern them, so they have no semi-informed
    scenario. For a closed-set attacker enrolment is training, so it has no lazy-informed scenario.
    """

    name: str
    enrol: SetName
    trial: SetName
    train: SetName


SCENARIOS = (
    Scenario("unprotected", "original", "original", "original"),
    Scenario("ignorant", "original", "released", "original"),
    Scenario("lazy-informed", "released", "released", "original"),
    Scenario("semi-informed", "released", "released", "released"),
    Scenario("constant", "constant", "constant", "constant"),
)


MATED_PER_SPEAKER = 150
NONMATED_PER_SPEAKER = 150
"""Non-mated trials of each speaker against its own half of the speakers, and as many against the other half."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class TrialPlan:
    """Clips and speakers, by pseudonym."""

    seed: int
    cross_sentence: bool
    """Whether no sentence is on both sides."""
    cross_emotion: float
    """Share of mated pairs whose emotions differ."""
    enrol: tuple[str, ...]
    trial: tuple[str, ...]
    halves: tuple[tuple[str, ...], tuple[str, ...]]
    """Disjoint halves of the speakers: the attacker trains on one and attacks the other."""
    pairs: tuple[Pair, ...]
    """Enrolment clip and trial clip of each comparison."""

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_atomic(path, json.dumps(asdict(self)) + "\n")


_Sides = dict[str, list[ReleasedClip]]


def make_plan(clips: Sequence[ReleasedClip], *, seed: int) -> TrialPlan:
    """Draw enrolment, trials, halves and pairs. Speakers with a single clip cannot be enrolled and tried: left out.

    Half of the sentences enrol; a speaker for whom a side would be empty is split clip by clip. Both halves of the
    speakers have their share of each sex. The order of `clips` does not matter.
    """
    rng = np.random.default_rng([seed, 0x7121A15])
    by_speaker: dict[str, list[ReleasedClip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip):
        by_speaker[clip.speaker].append(clip)
    people = {speaker: by_speaker[speaker] for speaker in sorted(by_speaker) if len(by_speaker[speaker]) > 1}
    sentences = _shuffled(sorted({clip.sentence for own in people.values() for clip in own}), rng)
    enrolled = set(sentences[: len(sentences) // 2])
    enrol: _Sides = {}
    trial: _Sides = {}
    cross_sentence = True
    for speaker, own in people.items():
        sides = [c for c in own if c.sentence in enrolled], [c for c in own if c.sentence not in enrolled]
        if not all(sides):
            cross_sentence = False
            shuffled = _shuffled(own, rng)
            sides = shuffled[: len(own) // 2], shuffled[len(own) // 2 :]
        enrol[speaker], trial[speaker] = sides
    deck: list[str] = []
    for sex in ("female", "male", None):
        deck += _shuffled([speaker for speaker, own in people.items() if own[0].sex == sex], rng)
    halves = tuple(sorted(deck[0::2])), tuple(sorted(deck[1::2]))
    pairs, cross_emotion = _pairs(enrol, trial, halves, rng)
    enrolment, tried = (tuple(clip.clip for own in side.values() for clip in own) for side in (enrol, trial))
    return TrialPlan(seed, cross_sentence, cross_emotion, enrolment, tried, halves, pairs)


def _shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]


def _pairs(
    enrol: _Sides, trial: _Sides, halves: tuple[tuple[str, ...], tuple[str, ...]], rng: np.random.Generator
) -> tuple[tuple[Pair, ...], float]:
    pairs: list[Pair] = []
    mated = different = 0
    for half, other in (halves, halves[::-1]):
        for speaker in half:
            own = _draw(enrol[speaker], trial[speaker], MATED_PER_SPEAKER, rng)
            mated += len(own)
            different += sum(a.emotion != b.emotion for a, b in own)
            pairs += [(a.clip, b.clip) for a, b in own]
            for others in ([s for s in half if s != speaker], other):
                pool = [clip for s in others for clip in enrol[s]]
                pairs += [(a.clip, b.clip) for a, b in _draw(pool, trial[speaker], NONMATED_PER_SPEAKER, rng)]
    return tuple(pairs), different / mated if mated else 0.0


def _draw(
    enrol: list[ReleasedClip], trial: list[ReleasedClip], count: int, rng: np.random.Generator
) -> list[tuple[ReleasedClip, ReleasedClip]]:
    """Distinct pairs of different emotion if there are any, else any distinct pairs."""
    everything = [(a, b) for a in enrol for b in trial] if len(enrol) * len(trial) <= 20_000 else None
    if everything is None:  # far more pairs than wanted: drawn one by one
        drawn = {(int(rng.integers(len(enrol))), int(rng.integers(len(trial)))) for _ in range(4 * count)}
        everything = [(enrol[i], trial[j]) for i, j in sorted(drawn)]
    chosen = [(a, b) for a, b in everything if a.emotion != b.emotion] or everything
    return [chosen[i] for i in np.sort(rng.permutation(len(chosen))[:count])]
