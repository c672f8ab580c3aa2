"""Pooled clips of `speaker-normalized`: `pooling_table.py CORPUS [--half 1|2] [--noise SIZES] [--secret OF] ...`.

Half of a corpus's people are released, with a code that was trained on the other half, or on synthetic speech.
Attackers are semi-informed: every adaptive one that is not a network, or those of `--attackers`. A row is the mean over
draws of secrets, noise and clips; its attacker is the strongest in each draw.

Defences: `--noise` on every clip; `--offset`, which all clips of a person share, or of a person in an emotion;
`--sizes` of the code; `--clips`, a budget of clips for each person, as many of each emotion, that are normalized by
themselves and attacked by somebody who has all clips of the enrolled sentences and makes codes of them.
`--apart` draws normalization and offsets anew for the clips that are attacked, as if nobody could enrol a released one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from speakers_table import ATTACKERS, Code, Line, Sound, clip_set, described_as, parts, release, sound_of

from moretta.client.anonymizers import normalized_codes
from moretta.client.anonymizers.speaker_references import clip_digest
from moretta.shared.audit import measure
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.runner import audit
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.clips import Clip
from moretta.shared.features.speaker_code import measured_clip, public_rows, train_speaker_code
from moretta.shared.release import ReleasedClip

Floats = np.ndarray
Described = list[ReleasedClip]


def main() -> None:
    """Release, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--half", type=int, choices=(1, 2), default=2, help="the half that is released")
    parser.add_argument(
        "--public", choices=("other half", "synthetic"), default="other half", help="who trained the code"
    )
    parser.add_argument("--sizes", nargs="*", type=int, default=[5])
    parser.add_argument("--noise", nargs="*", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--offset", nargs="*", type=float, default=[0.0])
    parser.add_argument("--secret", choices=("speaker", "emotion"), default="speaker", help="what shares an offset")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--clips", nargs="*", type=int, default=[0], help="released of each person; 0 keeps all")
    parser.add_argument("--pooled", nargs="*", type=int, default=[10, 30])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--attackers", nargs="*", default=list(ATTACKERS))
    options = parser.parse_args()
    limit_threads(1)
    measure.POOLED = tuple(options.pooled)  # type: ignore[assignment]  # other numbers than the audit's
    known: dict[bytes, Any] = {}
    normalized_codes.measured_clip = partial(_measured_once, known)  # every row measures the same clips
    public, mine = list(parts(Line(public="other half"), sound_of(options.corpus)))[2 - options.half]
    if options.public == "synthetic":
        public, _ = next(parts(Line(), {}))
    rows = public_rows(public, in_windows=False)
    pooled = [f"{figure}, {count} pooled" for count in options.pooled for figure in ("top-1", "EER")]
    names = ["size", "noise", "offset", "clips of each person", "emotion UAR", "top-1", "EER", *pooled]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|", flush=True)
    for size in options.sizes:
        code = train_speaker_code(rows, size=size, codebook_size=64, seed=1).to_arrays()
        for count in options.clips:
            start = time.perf_counter()
            line = Line(size=size, noise=0.0, public="other half", apart=options.apart or count > 0)
            drawn = [bare(code, line, mine, count, draw) for draw in range(options.draws)]
            for noise, offset in ((noise, offset) for noise in options.noise for offset in options.offset):
                made = []
                for draw, (clips, codes, tried) in enumerate(drawn):
                    rng = np.random.default_rng([13, draw])
                    secret = offset * offsets(clips, codes, tried if options.apart else None, options.secret, rng)
                    noisy = codes + noise * rng.normal(size=codes.shape) + secret
                    made.append(figures(clips, noisy, tried if count else None, options))
                shared = f"{offset:g} a {options.secret}{', apart' * options.apart}" if offset else "-"
                what = [f"{size}", f"{noise:g}", shared, f"{count or 'all'}", *cells(made)]
                print("| " + " | ".join(what) + " |", flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def bare(code: Code, line: Line, sound: Sound, count: int, draw: int) -> tuple[Described, Floats, Floats]:
    """Clips, codes without noise [n, d], and whether each is one that is attacked [n]."""
    clips = release(line, code, sound, list(budget(sound, count, draw)), seed=draw + 1)
    trial = set(make_plan(clips.clips, seed=0).trial)
    codes = np.stack([array.read() for array in clips.arrays]).reshape(len(clips), -1).astype(np.float64)
    return list(clips.clips), codes, np.array([clip.clip in trial for clip in clips.clips])


def budget(sound: Sound, count: int, draw: int) -> Iterator[Clip]:
    """All clips that are enrolled; of those that are attacked `count` of each person, as many of each emotion."""
    described = {described_as(clip).clip: clip for clip in sound}
    plan = make_plan([described_as(clip) for clip in sound], seed=0)
    yield from (described[clip] for clip in plan.enrol)
    own: dict[str, list[Clip]] = defaultdict(list)
    for clip in map(described.__getitem__, plan.trial):
        own[str(clip.speaker)].append(clip)
    for speaker, clips in own.items():
        order = [clips[i] for i in np.random.default_rng([11, draw, int(speaker)]).permutation(len(clips))]
        turn = {clip: [c for c in order if c.label == clip.label].index(clip) for clip in order}
        yield from sorted(order, key=lambda clip: turn[clip])[: count or len(order)]


def offsets(clips: Described, codes: Floats, tried: Floats | None, of: str, rng: np.random.Generator) -> Floats:
    """[n, d] of standard normals, the same for all clips that share a secret; sides have their own where given."""
    sides = np.zeros(len(clips), bool) if tried is None else tried
    keys = [(c.speaker, side, c.emotion if of == "emotion" else "") for c, side in zip(clips, sides, strict=True)]
    drawn = {key: rng.normal(size=codes.shape[1]) for key in sorted(set(keys))}
    return np.stack([drawn[key] for key in keys])


def figures(clips: Described, codes: Floats, alone: Floats | None, options: argparse.Namespace) -> list[float]:
    """Emotion UAR, then top-1 and EER for each number of pooled clips; NaN where nobody has so many.

    `alone` [n] are the clips that are released, where attackers enrol others.
    """
    seen = attacked(clips, codes, options.attackers)
    kept = np.flatnonzero(np.ones(len(clips), bool) if alone is None else alone)
    readable = clip_set([clips[i] for i in kept], [codes[i].astype(np.float32) for i in kept], "code")
    with tempfile.TemporaryDirectory() as scratch:
        utility = evaluate_utility(None, readable, seed=0, draws=0, workers=1, scratch=Path(scratch))
    found = [max(r.value for r in utility if r.metric == "uar" and r.value is not None)]
    for pooled in (1, *options.pooled):
        for metric, best in (("top1", max), ("eer", min)):
            values = [r.value for r in seen if (r.metric, r.pooled) == (metric, pooled) and r.value is not None]
            found.append(best(values, default=float("nan")))
    return found


def attacked(clips: Described, codes: Floats, attackers: Sequence[str]) -> list[Any]:
    """Semi-informed results."""
    held = clip_set(clips, list(codes.astype(np.float32)), "code")
    rows = audit(None, held, attackers=attackers, seed=0, bootstrap=0, workers=1).results
    return [r for r in rows if r.scenario == "semi-informed" and r.subset == "all" and not r.invalid]


def cells(made: list[list[float]]) -> list[str]:
    """Mean, lowest and highest draw of each figure."""
    table = np.array(made)
    return [
        "-" if np.isnan(column).any() else f"{column.mean():.2f} [{column.min():.2f}, {column.max():.2f}]"
        for column in table.T
    ]


def _measured_once(known: dict[bytes, Any], samples: Any, *, in_windows: bool) -> Any:
    key = clip_digest(samples)
    if key not in known:
        known[key] = measured_clip(samples, in_windows=in_windows)
    return known[key]


if __name__ == "__main__":
    main()
