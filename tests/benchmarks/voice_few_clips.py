"""Speakers with few clips, or in one emotion, `speaker-normalized`: `voice_few_clips.py CORPUS [--only] [--noise]`.

A row is a corpus in which people have so many clips, released with all defaults and a code trained on the other half of
the people. Both halves take their turn, and clips are drawn several times. Attackers are semi-informed: every adaptive
one that is not a network. The strongest is the best on average over draws and halves: with two clips each there are six
trials a draw, and the best of thirteen attackers would be lucky. An attacker that is always wrong counts as one that is
always right. Emotion is read by utility evaluators that were trained on the other people of the same corpus, or on the
same other people with all their clips. `--noise 100` releases nothing but noise, and shows these figures where there is
nothing to find. With uneven people they are high: a person with many clips is proposed often, and often rightly.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from speakers_table import ATTACKERS, KEY, Line, Sound, code_of, parts, release, sound_of

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.confusion import confusion_by_speaker, uar
from moretta.shared.audit.runner import audit
from moretta.shared.audit.utility.evaluators import UtilityEvaluator, evaluator_names, get_evaluator
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Clip

ALL = 44
EVALUATORS = [name for name in evaluator_names("voice") if get_evaluator(name).missing() is None]
HEAD = """| noise | clips of each person | whose figures | emotion UAR, evaluator of the same corpus \
| ... of whole ones | strongest top-1 | EER |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Corpus:
    """How many clips the people of a corpus have."""

    counts: tuple[int, ...]
    """In turn; the turn moves on with every draw."""
    draws: int
    monotone: bool = False
    """Every third speaker is left in one emotion only."""

    def group(self, number: int, draw: int) -> str:
        """Name of the group of the speaker with this number."""
        if self.monotone:
            return "one emotion" if (number + draw) % 3 == 0 else "six emotions"
        return f"{self.counts[(number + draw) % len(self.counts)]} clips"

    def chosen(self, sound: Sound, draw: int) -> tuple[list[Clip], dict[str, str]]:
        """The clips that are there, and the group of each speaker."""
        chosen: list[Clip] = []
        groups = {speaker: self.group(n, draw) for n, speaker in enumerate(sorted({clip.speaker for clip in sound}))}
        for number, (speaker, group) in enumerate(groups.items()):
            mine = [clip for clip in sound if clip.speaker == speaker]
            if group == "one emotion":
                mine = [clip for clip in mine if clip.label == EMOTIONS[(number // 3 + draw) % len(EMOTIONS)]]
            order = np.random.default_rng([7, draw, int(speaker)]).permutation(len(mine))
            count = self.counts[(number + draw) % len(self.counts)]
            chosen += [mine[i] for i in sorted(order[:count])]
        return chosen, groups


CORPORA = {
    "2 each": Corpus((2,), 8),
    "5 each": Corpus((5,), 4),
    "10 each": Corpus((10,), 3),
    "30 each": Corpus((30,), 2),
    "44 each": Corpus((ALL,), 2),
    "2, 5 and 44": Corpus((2, 5, ALL), 6),
    "a third in one emotion": Corpus((ALL,), 3, monotone=True),
}


class Found:
    """Figures of each group, over draws and halves."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        """By group, metric and attacker: of each speaker."""
        self.counts: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros((6, 6), np.int64))
        """Confusions by group, training clips of the evaluator, and evaluator."""

    @property
    def groups(self) -> list[str]:
        """`everybody` first."""
        return sorted({key[0] for key in self.counts}, key=lambda g: (g != "everybody", len(g), g))

    def strongest(self, group: str, metric: str) -> float:
        """Of all attackers, by what it reaches on average."""
        means = [np.mean(rates) for (g, m, _), rates in self.rates.items() if (g, m) == (group, metric)]
        return float(max(means) if metric == "top1" else min(min(m, 1 - m) for m in means))

    def emotion(self, group: str, learned: str) -> float:
        """Of all evaluators, the best."""
        return max(float(uar(counts)) for (g, kind, _), counts in self.counts.items() if (g, kind) == (group, learned))


def main() -> None:
    """Make, attack, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", nargs="*", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--noise", type=float, default=Line.noise)
    options = parser.parse_args()
    sound, line = sound_of(options.corpus), Line(public="other half", noise=options.noise)
    print(HEAD, flush=True)
    for name in options.only:
        start, found = time.perf_counter(), Found()
        for public, mine in parts(line, sound):
            code = code_of(line, public)
            whole = _learned(release(line, code, mine, list(mine)))
            for draw in range(CORPORA[name].draws):
                chosen, groups = CORPORA[name].chosen(mine, draw)
                clips = release(line, code, mine, chosen, seed=draw + 2)
                called = {KEY.speaker(speaker): group for speaker, group in groups.items()}
                _attack(found, clips, called)
                _evaluate(found, clips, {"same": _learned(clips), "whole": whole}, called)
        for group in found.groups if len(found.groups) > 2 else ["everybody"]:
            print(_row(line, name, group, found), flush=True)
        print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def _attack(found: Found, clips: ClipSet, groups: dict[str, str]) -> None:
    rows = audit(None, clips, attackers=ATTACKERS, seed=0, bootstrap=0, workers=1).results
    for row in rows:
        if row.scenario != "semi-informed" or row.pooled > 1 or row.value is None or row.metric not in {"top1", "eer"}:
            continue
        if group := "everybody" if row.subset == "all" else groups.get(row.subset):
            found.rates[group, row.metric, row.attacker].append(row.value)


Evaluators = dict[tuple[str, str], UtilityEvaluator]
"""By name and by the speaker whose clips they have not seen."""


def _learned(clips: ClipSet) -> Evaluators:
    made: Evaluators = {}
    for name in EVALUATORS:
        vectors, emotions = get_evaluator(name)().vectors(clips), _emotions(clips)
        for speaker in clips.speakers:
            others = _rows(clips, speaker, same=False)
            made[name, speaker] = get_evaluator(name)()
            made[name, speaker].fit(vectors[others], emotions[others], seed=0)
    return made


def _evaluate(found: Found, clips: ClipSet, learned: dict[str, Evaluators], groups: dict[str, str]) -> None:
    vectors = {name: get_evaluator(name)().vectors(clips) for name in EVALUATORS}
    for kind, evaluators in learned.items():
        for (name, speaker), evaluator in evaluators.items():
            mine = _rows(clips, speaker, same=True)
            said, truth = evaluator.scores(vectors[name][mine]).argmax(1), _emotions(clips)[mine]
            counts = confusion_by_speaker(truth, said, [0] * len(mine), classes=len(EMOTIONS))[0]
            for group in {"everybody", groups[speaker]}:
                found.counts[group, kind, name] += counts


def _rows(clips: ClipSet, speaker: str, *, same: bool) -> np.ndarray:
    return np.flatnonzero([(clip.speaker == speaker) is same for clip in clips.clips])


def _emotions(clips: ClipSet) -> np.ndarray:
    return np.array([EMOTIONS.index(clip.emotion) for clip in clips.clips], np.int64)


def _row(line: Line, corpus: str, group: str, found: Found) -> str:
    values = [found.emotion(group, "same"), found.emotion(group, "whole"), found.strongest(group, "top1")]
    reported = [f"{value:.2f}" for value in values]
    reported.append(f"{found.strongest(group, 'eer'):.2f}" if group == "everybody" else "-")
    return f"| {line.noise:g} | {corpus} | {group} | " + " | ".join(reported) + " |"


if __name__ == "__main__":
    main()
