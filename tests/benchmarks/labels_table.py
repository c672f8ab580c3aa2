"""Utility and leaks of `emotion-label-rr`: `labels_table.py CORPUS [--only TABLES] [--draws N]`.

A row is the mean of several releases of a corpus of real voices, which differ by the draws of randomized response. Each
is attacked semi-informed by every adaptive attacker that is not a network (audit_table.py has those), and read by every
utility evaluator. `right` is how often the released label is the emotion, which needs no evaluator and no training.
Sites: the people are divided among so many, and the labeler of a person is trained on the others of the same site.
`other half`: the labeler is trained on half of the people, and only the others are released; both halves take their
turn. No speaker has 30 trial clips in a corpus of 44 each, so 20 are pooled at most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from speakers_table import POOLED, Line, Sound, clip_set, described_as, measured, parts, sound_of

from moretta.client.anonymizers.emotion_labeler import EmotionLabeler
from moretta.shared.audit import measure
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Clip
from moretta.shared.features.speaker_code import public_rows
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.study.schema import Study


@dataclass(frozen=True)
class Setting:
    """One way of releasing labels."""

    epsilon: float = 3.5
    source: str = "site"
    sites: int = 1
    clips: int = 44
    """Of each speaker, drawn anew for every draw."""
    monotone: bool = False
    """Every third speaker is left in one emotion only, another one for every draw."""

    @property
    def reported(self) -> str:
        """The people that the labeler was trained on."""
        if self.source != "site":
            return self.source
        return "the site's other people" + (f", {self.sites} sites" if self.sites > 1 else "")


def tables() -> dict[str, list[Setting]]:
    """Lines by the name of their table."""
    epsilons = [Setting(epsilon=epsilon) for epsilon in (1, 2, 3, 3.5, 4, 5, 20)]
    sources = [Setting(sites=2), Setting(sites=3), Setting(source="other half"), Setting(source="synthetic")]
    few = [*(Setting(clips=clips) for clips in (2, 5, 10, 30)), Setting(monotone=True)]
    return {"epsilons": epsilons, "sources": [*sources, replace(sources[2], epsilon=20)], "few": few}


HEAD = """| trained on | epsilon of a label | clips of each person | right | emotion UAR | strongest top-1 | EER \
| top-1, 10 pooled | 20 pooled | chance |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Make, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", nargs="*", default=list(tables()), choices=list(tables()))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    measure.POOLED = POOLED  # type: ignore[assignment]  # other numbers than the audit's
    sound = sound_of(options.corpus)
    print(HEAD, flush=True)
    for name in options.only:
        for setting in tables()[name]:
            start = time.perf_counter()
            found = [one for draw in range(options.draws) for one in figures(setting, sound, draw)]
            print(row(setting, found), flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def figures(setting: Setting, sound: Sound, draw: int) -> Iterator[dict[str, Any]]:
    """Everything measured about one draw, of each half of the people if halves take turns."""
    for number in range(2 if setting.source == "other half" else 1):
        arrays, speakers = _learnt(setting.source, tuple(sound), number, _Sounds(sound))
        chosen = [clip for clip in _chosen(setting, sound, draw) if clip.speaker in speakers]
        released = dict(_released(setting, arrays, sound, chosen, draw))
        hits = [(EMOTIONS.index(clip.label), int(label.argmax())) for clip, label in released.items()]
        right = np.mean([np.mean([w == e for t, w in hits if t == e]) for e in {t for t, _ in hits}])
        clips = clip_set([described_as(clip) for clip in released], list(released.values()), "code")
        yield {"right": right, **measured(clips)}


class _Sounds:
    """Sound that a cache takes for the same as any other: there is one corpus."""

    def __init__(self, sound: Sound) -> None:
        self.sound = sound

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sounds)

    def __hash__(self) -> int:
        return 0


@cache
def _learnt(source: str, clips: tuple[Clip, ...], half: int, sounds: _Sounds) -> tuple[dict[str, Any], frozenset[str]]:
    """Arrays that the coordinator sends, and the speakers whose clips are released."""
    del clips
    sides = list(parts(Line(public="other half" if source == "other half" else "synthetic"), sounds.sound))
    public, mine = sides[half]
    labeler = EmotionLabeler.of_public(public_rows(public, in_windows=False))
    return labeler.to_arrays(), frozenset(clip.speaker for clip in mine)


def _chosen(setting: Setting, sound: Sound, draw: int) -> Iterator[Clip]:
    for number, speaker in enumerate(sorted({clip.speaker for clip in sound})):
        mine = [clip for clip in sound if clip.speaker == speaker]
        if setting.monotone and (number + draw) % 3 == 0:
            mine = [clip for clip in mine if clip.label == EMOTIONS[(number // 3 + draw) % len(EMOTIONS)]]
        order = np.random.default_rng([7, draw, int(speaker)]).permutation(len(mine))
        yield from (mine[i] for i in sorted(order[: setting.clips]))


def _released(
    setting: Setting, arrays: dict[str, Any], sound: Sound, chosen: list[Clip], draw: int
) -> Iterator[tuple[Clip, np.ndarray]]:
    section = {
        "anonymizer": "emotion-label-rr",
        "options": {
            "label_epsilon": setting.epsilon,
            "labels_from": "site" if setting.source == "site" else "public",
        },
    }
    study = Study().with_changes(voice=section)
    people = sorted({clip.speaker for clip in chosen})
    for site in range(setting.sites):
        mine = [clip for clip in chosen if clip.speaker in people[site :: setting.sites]]
        made = get_anonymizer("voice", "emotion-label-rr").from_study(study, arrays)
        made.fit([(str(clip.speaker), sound[clip]) for clip in mine], SeededNoise(draw, "fit", site))
        made.train_on_emotions((str(c.speaker), sound[c], EMOTIONS.index(c.label)) for c in mine)
        noise = [SeededNoise(draw, clip.name) for clip in mine]
        out = made.release([sound[clip] for clip in mine], noise, [str(clip.speaker) for clip in mine])
        yield from ((clip, label) for clip, label in zip(mine, out, strict=True) if isinstance(label, np.ndarray))


def row(setting: Setting, found: list[dict[str, Any]]) -> str:
    """One line of a table: means over the draws."""
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    clips = ("44, a third of people in one emotion" if setting.monotone else str(setting.clips)).replace("44", "all")
    names = ("right", "uar", "top1", "eer", "pooled10", "pooled20", "chance")
    values = ["-" if np.isnan(mean[name]) else f"{mean[name]:.3f}" for name in names]
    return "| " + " | ".join([setting.reported, f"{setting.epsilon:g}", clips, *values]) + " |"


if __name__ == "__main__":
    main()
