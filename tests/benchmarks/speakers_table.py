"""Utility and leaks of `speaker-normalized`: `speakers_table.py CORPUS [--only TABLES] [--noise SIZES]`.

Every line is one release of a corpus of real voices, attacked semi-informed by every adaptive attacker that is not a
network (audit_table.py has those), and read by every utility evaluator. `other half` means that the code was
trained on the recordings of half of the people, and only the others are released; both halves take their turn, and the
line is their mean. `apart` means that the clips an attacker enrols and those it attacks were normalized by themselves,
as by two sites. The form `mfcc` is unprotected speech. No speaker has 30 trial clips in a corpus of 44 each, so 20 are
pooled at most.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.audit import measure
from moretta.shared.audit.attackers import attacker_names
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.runner import audit
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Clip
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.mfcc import mfcc_batch
from moretta.shared.features.public_speech import Recording, synthetic_speakers
from moretta.shared.features.speaker_code import public_rows, train_speaker_code
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release import PseudonymKey, ReleasedClip
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.study.schema import Study

NETWORKS = ("voice-ecapa", "voice-tdnn")
POOLED = (10, 20)
ATTACKERS = tuple(n for n in attacker_names("voice", "adaptive") if "+" not in n and n not in NETWORKS)
KEY = PseudonymKey.seeded(0, "speakers")


@dataclass(frozen=True)
class Line:
    """One way of releasing."""

    size: int = 5
    noise: float = 0.5
    form: str = "code"
    public: str = "synthetic"
    apart: bool = False
    encoder: str = "directions"


def tables() -> dict[str, list[Line]]:
    """Lines by the name of their table."""
    half = Line(public="other half")
    sizes = [Line(size=size, noise=noise) for size in (5, 16, 64) for noise in (0.0, 0.5)]
    forms = [Line(form="code-sequence"), Line(form="code-tokens"), Line(noise=1.0)]
    halves = [replace(half, size=s, noise=n) for s, n in ((5, 0.0), (5, 0.25), (5, 0.5), (5, 0.7), (5, 1.0), (16, 0.5))]
    apart = [replace(line, apart=True) for line in (Line(), Line(size=32, noise=0.0), half, replace(half, noise=0.0))]
    plain = Line(form="mfcc", noise=0.0, size=13)
    open_speech = [plain, replace(plain, public="other half")]
    made = (half, replace(half, encoder="network"))
    encoders = [replace(line, size=s, noise=n) for s in (5, 16) for n in (0.0, 0.5) for line in made]
    return {
        "unprotected": open_speech,
        "sizes": sizes,
        "forms": forms,
        "halves": halves,
        "apart": apart,
        "encoders": encoders,
    }


HEAD = """| code | noise | form | public speech | emotion UAR | strongest top-1 | inverted | likeness | EER | \
top-1, 10 pooled | 20 pooled | chance |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Make, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", nargs="*", default=list(tables()), choices=list(tables()))
    parser.add_argument("--noise", nargs="*", type=float, default=[], help="lines with this much noise alone")
    options = parser.parse_args()
    measure.POOLED = POOLED  # type: ignore[assignment]  # other numbers than the audit's
    sound = sound_of(options.corpus)
    print(HEAD, flush=True)
    for name in options.only:
        for line in (one for one in tables()[name] if not options.noise or one.noise in options.noise):
            start = time.perf_counter()
            found = [release(line, code_of(line, public), mine, list(mine)) for public, mine in parts(line, sound)]
            print(row(line, [measured(clips) for clips in found]), flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


Sound = dict[Clip, np.ndarray]


def sound_of(corpus: Path, first: int = 0, last: int = 10_000) -> Sound:
    """The samples of every clip of these speakers."""
    clips = (clip for clip in read_corpus(corpus).clips if first <= int(clip.speaker) <= last)
    return {clip: read_audio(clip.audio) for clip in clips if clip.audio is not None}


def parts(line: Line, sound: Sound) -> Iterator[tuple[Iterable[Recording], Sound]]:
    """Recordings that the code is trained on, and the sound of the released clips; once for each half."""
    if line.public == "synthetic":
        yield _synthetic(), sound
        return
    people = sorted({clip.speaker for clip in sound})
    for known in (people[: len(people) // 2], people[len(people) // 2 :]):
        public = [Recording(s, str(c.speaker), EMOTIONS.index(c.label)) for c, s in sound.items() if c.speaker in known]
        yield public, {clip: s for clip, s in sound.items() if clip.speaker not in known}


@cache
def _synthetic() -> tuple[Recording, ...]:
    return tuple(synthetic_speakers(1))


Code = dict[str, np.ndarray]


def code_of(line: Line, public: Iterable[Recording]) -> Code:
    """Arrays that a coordinator would send; none for unprotected speech."""
    if line.form == "mfcc":
        return {}
    steps, noise = line.form != "code", line.noise if line.encoder == "network" else None
    rows = public_rows(public, in_windows=steps)
    made = train_speaker_code(rows, size=line.size, codebook_size=64, seed=1, network_noise=noise)
    return made.to_arrays()


def _study(line: Line) -> Study:
    section = {
        "anonymizer": "speaker-normalized",
        "form": line.form,
        "options": {"code_size": line.size, "code_noise": line.noise, "code_encoder": line.encoder},
    }
    return Study().with_changes(voice=section)


def release(line: Line, code: Code, sound: Sound, chosen: Sequence[Clip], seed: int = 1) -> ClipSet:
    """Release of a site that has the chosen clips and no others."""
    if line.form == "mfcc":
        frames = mfcc_batch([sound[clip] for clip in chosen])
        return clip_set([described_as(clip) for clip in chosen], frames, line.form)
    study = _study(line)
    described = {clip: described_as(clip) for clip in chosen}
    plan = make_plan(list(described.values()), seed=0)
    sides = [set(plan.enrol), set(plan.trial)] if line.apart else [{c.clip for c in described.values()}]
    arrays: dict[Clip, np.ndarray] = {}
    for number, side in enumerate(sides):
        anonymizer = get_anonymizer("voice", "speaker-normalized").from_study(study, code)
        mine = [clip for clip in chosen if described[clip].clip in side]
        anonymizer.fit([(str(clip.speaker), sound[clip]) for clip in mine], SeededNoise(seed, "fit", number))
        noise = [SeededNoise(seed, clip.name) for clip in mine]
        released = anonymizer.release([sound[c] for c in mine], noise, [str(c.speaker) for c in mine])
        arrays |= {clip: a for clip, a in zip(mine, released, strict=True) if isinstance(a, np.ndarray)}
    released_clips = [described[clip] for clip in arrays]
    return clip_set(released_clips, list(arrays.values()), line.form, anonymizer.codebook)


def clip_set(clips: list[ReleasedClip], arrays: list[np.ndarray], form: Any, codebook: Any = None) -> ClipSet:
    return ClipSet.from_arrays(clips, arrays, modality="voice", form=form, codebook=codebook)


def measured(clips: ClipSet) -> dict[str, Any]:
    rows = audit(None, clips, attackers=ATTACKERS, seed=0, bootstrap=0, workers=1).results
    sound_rows = [r for r in rows if r.scenario == "semi-informed" and r.subset == "all" and r.value is not None]
    with tempfile.TemporaryDirectory() as scratch:
        utility = evaluate_utility(None, clips, seed=0, draws=0, workers=1, scratch=Path(scratch))

    def best(metric: str, pooled: int = 1, attackers: tuple[str, ...] = ATTACKERS) -> float:
        found = [r.value for r in sound_rows if (r.metric, r.pooled) == (metric, pooled) and r.attacker in attackers]
        values = [v for v in found if v is not None]
        return (min if metric == "eer" else max)(values, default=float("nan"))

    return {
        "clips": len(clips),
        "uar": max((r.value for r in utility if r.metric == "uar" and r.value is not None), default=float("nan")),
        "top1": best("top1"),
        "inverted": best("top1", attackers=("voice-inverted",)),
        "likeness": best("top1", attackers=("voice-likeness",)),
        "eer": best("eer"),
        "pooled10": best("top1", 10),
        "pooled20": best("top1", 20),
        "chance": 1 / len(clips.speakers),
    }


def row(line: Line, found: list[dict[str, Any]]) -> str:
    """One line of a table: means over the parts."""
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    public = line.public + (", apart" if line.apart else "")
    size = " ".join([str(line.size), *([line.encoder] if line.encoder != "directions" else [])])
    names = ("uar", "top1", "inverted", "likeness", "eer", "pooled10", "pooled20", "chance")
    values = ["-" if np.isnan(mean[name]) else f"{mean[name]:.3f}" for name in names]
    return "| " + " | ".join([size, f"{line.noise:g}", line.form, public, *values]) + " |"


def described_as(clip: Clip) -> ReleasedClip:
    return ReleasedClip(
        clip=KEY.clip(clip.name),
        speaker=KEY.speaker(clip.speaker),
        emotion=clip.label,
        sentence=clip.sentence,
        level=clip.level,
    )


if __name__ == "__main__":
    main()
