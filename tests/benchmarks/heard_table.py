"""What is left of codes when they are heard: `python tests/benchmarks/heard_table.py CORPUS [--people N] [--clips N]`.

A code is learnt on half of the people of a corpus of real voices; some clips of the others are released as sequences of
codes and as their sound, with the same noise. Prints how far the sound does what the codes say, what judges and every
attacker make of either, and how alike clips of one person and of several sound to CAM++. Needs the weights of
`moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from moretta.client.anonymize.registry import get_anonymizer
from moretta.server.audit.attackers import attacker_names
from moretta.server.audit.clipset import ClipSet
from moretta.server.audit.emotion import judge_emotion
from moretta.server.audit.pretrained.campplus import CamPlusPlusEncoder
from moretta.server.audit.run import run_audit
from moretta.shared.corpus.clips import Clip
from moretta.shared.corpus.media import read_audio
from moretta.shared.corpus.reader import read_corpus
from moretta.shared.features.code_voice import CONTROLS, CodeVoice, learn_code_voice
from moretta.shared.features.delivery import MEASUREMENTS, delivery_batch
from moretta.shared.features.public_people import Recording
from moretta.shared.features.speaker_code import learn_speaker_code, public_rows
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release import PseudonymKey, ReleasedClip
from moretta.shared.study import Study

KEY = PseudonymKey.seeded(0, "heard")
FORMS = ("code-sequence", "waveform")
FOLLOWED = ("pitch median", "level mean", "level deviation", "peaks a second")
HEAD = (
    "| released | emotion UAR | strongest top-1 | lowest EER | top-1, 10 pooled | chance |\n|---|---|---|---|---|---|"
)


def main() -> None:
    """Make, listen, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--people", type=int, default=6, help="whose clips are released")
    parser.add_argument("--clips", type=int, default=20, help="of each")
    options = parser.parse_args()
    everybody = [clip for clip in read_corpus(options.corpus).clips if clip.audio is not None]
    sound = {clip: read_audio(clip.audio) for clip in everybody if clip.audio is not None}
    people = sorted({clip.speaker for clip in everybody})
    theirs = {clip: samples for clip, samples in sound.items() if clip.speaker in people[-options.people :]}
    public = [Recording(s, str(c.speaker), c.label.class_index) for c, s in sound.items() if c not in theirs]
    chosen = [clip for one in people[-options.people :] for clip in _some(one, list(theirs), options.clips)]
    rows = public_rows(public, in_steps=True)
    code = learn_speaker_code(rows, size=5, codebook_size=64, seed=1)
    voice = learn_code_voice(rows, code)
    shared = code.to_arrays() | voice.to_arrays()
    told = {form: released(form, shared, chosen, theirs) for form in FORMS}
    followed(voice, *(told[form] for form in FORMS), [theirs[clip] for clip in chosen], chosen)
    likeness([theirs[clip] for clip in chosen], told["waveform"], chosen)
    originals = _clip_set(chosen, [theirs[clip] for clip in chosen], "waveform")
    print(HEAD, flush=True)
    for form in FORMS:
        print(line(form, originals, _clip_set(chosen, told[form], form)), flush=True)


def released(form: str, shared: dict[str, Any], chosen: list[Clip], sound: dict[Clip, np.ndarray]) -> list[np.ndarray]:
    """All clips in one form, the noise and the weights the same for each form."""
    study = Study().with_changes(voice={"anonymizer": "speaker-normalised", "form": form})
    anonymizer = get_anonymizer("voice", "speaker-normalised").from_study(study, shared)
    anonymizer.fit([(str(clip.speaker), sound[clip]) for clip in chosen], SeededNoise(1, "fit"))
    noise = [SeededNoise(1, str(clip.name)) for clip in chosen]
    made = anonymizer.release([sound[clip] for clip in chosen], noise, [str(clip.speaker) for clip in chosen])
    return [array for array in made if isinstance(array, np.ndarray)]


def followed(
    voice: CodeVoice, codes: list[np.ndarray], heard: list[np.ndarray], spoken: list[np.ndarray], chosen: list[Clip]
) -> None:
    """Each measurement of the sound against what the codes ask for, and, within a speaker, against the clip's own."""
    names = [control.name for control in CONTROLS]
    asked = np.stack([voice.deliveries(one).mean(axis=0) for one in codes])
    speaker = np.array([clip.speaker for clip in chosen])
    measured, own = (np.stack(delivery_batch(clips)) for clips in (heard, spoken))
    print("| measured | correlation of sound and codes | median error | correlation of sound and clip |")
    print("|---|---|---|---|")
    for name in FOLLOWED:
        want, got = asked[:, names.index(name)], measured[:, MEASUREMENTS.index(name)]
        said = own[:, MEASUREMENTS.index(name)]
        centred = [values - _means(values, speaker) for values in (got, said)]
        error = np.median(np.abs((got - got.mean()) - (want - want.mean())))
        print(f"| {name} | {_correlation(want, got):.2f} | {error:.3f} | {_correlation(*centred):.2f} |", flush=True)


def likeness(spoken: list[np.ndarray], heard: list[np.ndarray], chosen: list[Clip]) -> None:
    """Mean cosine of CAM++ between clips of one person, and of two."""
    speaker = np.array([clip.speaker for clip in chosen])
    same, other = speaker[:, None] == speaker, ~np.eye(len(speaker), dtype=bool)
    print("| CAM++ | clips of one person | clips of two |\n|---|---|---|")
    for name, clips in (("recordings", spoken), ("heard", heard)):
        rows = CamPlusPlusEncoder.load().embed_many(clips)
        cosine = rows @ rows.T
        print(f"| {name} | {cosine[same & other].mean():.3f} | {cosine[~same].mean():.3f} |", flush=True)


def line(form: str, originals: ClipSet, clips: ClipSet) -> str:
    """One row: the best judge, and the strongest attacker in any scenario."""
    kinds = ("adaptive",) if form != "waveform" else ("adaptive", "pretrained")
    attackers = [name for kind in kinds for name in attacker_names("voice", kind)]
    rows = run_audit(originals, clips, attackers=attackers, seed=0, bootstrap=0, workers=1)
    found = [r for r in rows if r.subset == "all" and r.value is not None and not r.void]
    of_release = [r for r in found if r.scenario in ("ignorant", "lazy-informed", "semi-informed")]
    with tempfile.TemporaryDirectory() as scratch:
        judged = judge_emotion(None, clips, seed=0, draws=0, workers=1, scratch=Path(scratch))
    uar = max((r.uar, r.judge) for r in judged if r.uar is not None)
    cells = [f"{uar[0]:.3f} {uar[1]}"]
    for metric, pooled in (("top1", 1), ("eer", 1), ("top1", 10)):
        of_metric = [r for r in of_release if (r.metric, r.pooled) == (metric, pooled)]
        if not of_metric:
            cells.append("-")
            continue
        best = (min if metric == "eer" else max)(of_metric, key=lambda r: float(r.value or 0))
        cells.append(f"{best.value:.3f} {best.attacker}, {best.scenario}")
    for row in of_release:
        if (row.metric, row.pooled) in (("top1", 1), ("eer", 1)):
            print(f"<!-- {form} {row.attacker} {row.scenario} {row.metric} {row.value:.3f} -->")
    return "| " + " | ".join([form, *cells, f"{1 / len(clips.speakers):.3f}"]) + " |"


def _some(speaker: int, clips: list[Clip], count: int) -> list[Clip]:
    """So many of a speaker's clips, spread over sentences and emotions."""
    mine = [clip for clip in clips if clip.speaker == speaker]
    order = np.random.default_rng([7, speaker]).permutation(len(mine))
    return [mine[i] for i in sorted(order[:count])]


def _clip_set(clips: list[Clip], arrays: list[np.ndarray], form: Any) -> ClipSet:
    described = [
        ReleasedClip(
            clip=KEY.clip(str(clip.name)),
            speaker=KEY.speaker(clip.speaker),
            emotion=clip.label,
            sentence=clip.name.sentence,
            level=clip.name.level,
        )
        for clip in clips
    ]
    return ClipSet.from_arrays(described, arrays, modality="voice", form=form)


def _means(values: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """[clips], of each clip's speaker."""
    return np.array([values[speaker == one].mean() for one in speaker])


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1])


if __name__ == "__main__":
    main()
