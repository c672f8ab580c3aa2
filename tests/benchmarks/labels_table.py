"""What `emotion-label-rr` keeps and leaks: `words_table.py CORPUS [--only TABLES] [--draws N]`.

Every line is several releases of a corpus of real voices, the answers drawn anew, each attacked semi-informed by every
adaptive attacker that is not a network (networks are in the lines of audit_table.py) and judged by every judge; the
figures are means over the draws. `right` is how often the released word is the emotion, which needs no judge and no
training. Sites: the people are dealt to so many, and each is taught by the others of the same site. `other half`: the
words were learnt on the recordings of half of the people, and only the others are released; both halves take their
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
class Words:
    """One way of releasing words."""

    epsilon: float = 3.5
    source: str = "site"
    sites: int = 1
    clips: int = 44
    """Of each speaker, drawn anew for every draw."""
    monotone: bool = False
    """Every third speaker is left in one emotion only, another one for every draw."""

    @property
    def reported(self) -> str:
        """Who taught."""
        if self.source != "site":
            return self.source
        return "the site's other people" + (f", {self.sites} sites" if self.sites > 1 else "")


def tables() -> dict[str, list[Words]]:
    """Lines by the name of their table."""
    epsilons = [Words(epsilon=epsilon) for epsilon in (1, 2, 3, 3.5, 4, 5, 20)]
    sources = [Words(sites=2), Words(sites=3), Words(source="other half"), Words(source="synthetic")]
    few = [*(Words(clips=clips) for clips in (2, 5, 10, 30)), Words(monotone=True)]
    return {"epsilons": epsilons, "sources": [*sources, replace(sources[2], epsilon=20)], "few": few}


HEAD = """| taught by | epsilon of a word | clips of each person | right | emotion UAR | strongest top-1 | EER \
| top-1, 10 pooled | 20 pooled | chance |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Make, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", nargs="*", default=list(tables()), choices=list(tables()))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    measure.POOLED = POOLED
    sound = sound_of(options.corpus)
    print(HEAD, flush=True)
    for name in options.only:
        for words in tables()[name]:
            start = time.perf_counter()
            print(row(words, [one for draw in range(options.draws) for one in figures(words, sound, draw)]), flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def figures(words: Words, sound: Sound, draw: int) -> Iterator[dict[str, Any]]:
    """Everything measured about one draw, of each half of the people if halves take turns."""
    for number in range(2 if words.source == "other half" else 1):
        arrays, speakers = _learnt(words.source, tuple(sound), number, _Sounds(sound))
        chosen = [clip for clip in _chosen(words, sound, draw) if clip.speaker in speakers]
        released = dict(_released(words, arrays, sound, chosen, draw))
        hits = [(EMOTIONS.index(clip.label), int(word.argmax())) for clip, word in released.items()]
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
def _learnt(source: str, clips: tuple[Clip, ...], half: int, sounds: _Sounds) -> tuple[dict[str, Any], frozenset[int]]:
    """What the coordinator sends, and whose clips are released."""
    del clips
    sides = list(parts(Line(public="other half" if source == "other half" else "synthetic"), sounds.sound))
    public, mine = sides[half]
    words = EmotionLabeler.of_public(public_rows(public, in_windows=False))
    return words.to_arrays(), frozenset(clip.speaker for clip in mine)


def _chosen(words: Words, sound: Sound, draw: int) -> Iterator[Clip]:
    for number, speaker in enumerate(sorted({clip.speaker for clip in sound})):
        mine = [clip for clip in sound if clip.speaker == speaker]
        if words.monotone and (number + draw) % 3 == 0:
            mine = [clip for clip in mine if clip.label == EMOTIONS[(number // 3 + draw) % len(EMOTIONS)]]
        order = np.random.default_rng([7, draw, speaker]).permutation(len(mine))
        yield from (mine[i] for i in sorted(order[: words.clips]))


def _released(
    words: Words, arrays: dict[str, Any], sound: Sound, chosen: list[Clip], draw: int
) -> Iterator[tuple[Clip, np.ndarray]]:
    section = {
        "anonymizer": "emotion-label-rr",
        "label_epsilon": words.epsilon,
        "labels_from": "site" if words.source == "site" else "public",
    }
    study = Study().with_changes(voice=section)
    people = sorted({clip.speaker for clip in chosen})
    for site in range(words.sites):
        mine = [clip for clip in chosen if clip.speaker in people[site :: words.sites]]
        made = get_anonymizer("voice", "emotion-label-rr").from_study(study, arrays)
        made.fit([(str(clip.speaker), sound[clip]) for clip in mine], SeededNoise(draw, "fit", site))
        made.train_on_emotions((str(c.speaker), sound[c], EMOTIONS.index(c.label)) for c in mine)
        noise = [SeededNoise(draw, clip.name) for clip in mine]
        out = made.release([sound[clip] for clip in mine], noise, [str(clip.speaker) for clip in mine])
        yield from ((clip, word) for clip, word in zip(mine, out, strict=True) if isinstance(word, np.ndarray))


def row(words: Words, found: list[dict[str, Any]]) -> str:
    """One line of a table: means over the draws."""
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    clips = ("44, a third of people in one emotion" if words.monotone else str(words.clips)).replace("44", "all")
    names = ("right", "uar", "top1", "eer", "pooled10", "pooled20", "chance")
    values = ["-" if np.isnan(mean[name]) else f"{mean[name]:.3f}" for name in names]
    return "| " + " | ".join([words.reported, f"{words.epsilon:g}", clips, *values]) + " |"


if __name__ == "__main__":
    main()
