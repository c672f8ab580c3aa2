"""Pooled clips of `speaker-normalized`: `pooling_table.py CORPUS [--half 1|2] [--noise SIZES] [--clips COUNTS]`.

Half of a corpus's people are released, with a code that was trained on the other half. Attackers are semi-informed:
every adaptive one that is not a network, or those of `--attackers`. A row is the mean over draws of secrets, noise and
clips; its attacker is the strongest in each draw. `--clips` keeps so many clips of each person.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from speakers_table import ATTACKERS, Line, Sound, code_of, parts, release, sound_of

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.runner import audit
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.clips import Clip

POOLED = (1, 10, 30)
HEAD = """| noise | clips of each person | emotion UAR | top-1 | EER | top-1, 10 pooled | EER, 10 pooled \
| top-1, 30 pooled | EER, 30 pooled |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Release, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--half", type=int, choices=(1, 2), default=2, help="the half that is released")
    parser.add_argument("--noise", nargs="*", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--clips", nargs="*", type=int, default=[0], help="of each person; 0 keeps all")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--attackers", nargs="*", default=list(ATTACKERS))
    options = parser.parse_args()
    limit_threads(1)
    public, mine = list(parts(Line(public="other half"), sound_of(options.corpus)))[2 - options.half]
    code = code_of(Line(public="other half"), public)
    print(HEAD, flush=True)
    for noise in options.noise:
        for count in options.clips:
            start = time.perf_counter()
            line = Line(public="other half", noise=noise)
            made = [
                figures(release(line, code, mine, chosen(mine, count, draw), seed=draw + 1), options.attackers)
                for draw in range(options.draws)
            ]
            print(f"| {noise:g} | {count or 'all'} | " + " | ".join(cells(made)) + " |", flush=True)
            print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def chosen(sound: Sound, count: int, draw: int) -> list[Clip]:
    """So many clips of each person; all where `count` is 0."""
    kept: list[Clip] = []
    for speaker in sorted({clip.speaker for clip in sound}):
        own = [clip for clip in sound if clip.speaker == speaker]
        order = np.random.default_rng([11, draw, int(speaker)]).permutation(len(own))
        kept += [own[place] for place in sorted(order[: count or len(own)])]
    return kept


def figures(clips: ClipSet, attackers: list[str]) -> list[float]:
    """Emotion UAR, then top-1 and EER for each number of pooled clips; NaN where nobody has so many."""
    rows: list[Any] = audit(None, clips, attackers=attackers, seed=0, bootstrap=0, workers=1).results
    whole = [r for r in rows if r.scenario == "semi-informed" and r.subset == "all" and not r.invalid]
    with tempfile.TemporaryDirectory() as scratch:
        utility = evaluate_utility(None, clips, seed=0, draws=0, workers=1, scratch=Path(scratch))
    found = [max(r.value for r in utility if r.metric == "uar" and r.value is not None)]
    for pooled in POOLED:
        for metric, best in (("top1", max), ("eer", min)):
            values = [r.value for r in whole if (r.metric, r.pooled) == (metric, pooled) and r.value is not None]
            found.append(best(values, default=float("nan")))
    return found


def cells(made: list[list[float]]) -> list[str]:
    """Mean, lowest and highest draw of each figure."""
    table = np.array(made)
    return [
        "-" if np.isnan(column).any() else f"{column.mean():.2f} [{column.min():.2f}, {column.max():.2f}]"
        for column in table.T
    ]


if __name__ == "__main__":
    main()
