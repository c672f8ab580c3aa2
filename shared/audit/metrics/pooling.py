"""Linkage with pooled clips: an adversary who knows that L clips belong together adds up what each gives away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moretta.shared.audit.metrics.eer import eer
from moretta.shared.audit.metrics.identification import hits, median_rank
from moretta.shared.audit.metrics.ranking import Ranking
from moretta.shared.audit.metrics.trials import Ints

CLIPS = (1, 3, 10, 30)
DRAWS = 20
"""Shuffles of a speaker's clips; each is cut into disjoint sets, and sets met before are dropped."""


@dataclass(frozen=True)
class Linkage:
    """What pooling L clips gives away.

    `top1` and `top5` are shares (the latter None of five speakers or fewer), `median_rank` is from 1, `eer` a rate
    (None of a gallery of one); `sets` counts the pooled sets, `speakers` those with at least L clips,
    `too_short` those with fewer.
    """

    clips: int
    top1: float
    top5: float | None
    median_rank: float
    eer: float | None
    sets: int
    speakers: int
    too_short: int


def linkage(ranking: Ranking, clips: Iterable[int] = CLIPS, *, seed: int = 0) -> dict[int, Linkage | None]:
    """Linkage at each number of pooled clips (brijmohan/voice-anonymization-legal-eval: 1-to-N, L = 1, 3, 30).

    Every speaker weighs the same however many sets it gives. None where no speaker has so many clips.
    """
    return {length: _linkage(ranking, length, seed) for length in clips}


def pool(ranking: Ranking, length: int, *, seed: int = 0) -> Ranking | None:
    """Mean log-scores of sets of `length` trials of one speaker, as many distinct sets as the shuffles give.

    With `length` 1 these are the trials themselves, once each. None where no speaker has so many trials.
    """
    rng = np.random.default_rng(seed)
    rows, speakers = [], []
    for speaker in np.unique(ranking.speaker):
        sets = _sets(np.flatnonzero(ranking.speaker == speaker), length, rng)
        rows += [ranking.scores[chosen].mean(axis=0) for chosen in sets]
        speakers += [speaker] * len(sets)
    return Ranking(np.array(rows), ranking.gallery, np.array(speakers)) if rows else None


def _sets(rows: Ints, length: int, rng: np.random.Generator) -> list[Ints]:
    """Distinct sets of `length` of these rows, disjoint within a shuffle."""
    whole = len(rows) // length * length
    found: dict[tuple[int, ...], Ints] = {}
    for _ in range(DRAWS if whole else 0):
        for chosen in np.sort(rng.permutation(rows)[:whole].reshape(-1, length), axis=1):
            found.setdefault(tuple(chosen.tolist()), chosen)
    return list(found.values())


def _linkage(ranking: Ranking, length: int, seed: int) -> Linkage | None:
    pooled = pool(ranking, length, seed=seed)
    if pooled is None:
        return None
    speakers, of_row, sets_of = np.unique(pooled.speaker, return_inverse=True, return_counts=True)
    weight = 1 / (sets_of[of_row] * len(speakers))
    trials = pooled.trials()
    return Linkage(
        clips=length,
        top1=float(hits(pooled, 1) @ weight),
        top5=float(hits(pooled, 5) @ weight) if len(pooled.gallery) > 5 else None,
        median_rank=median_rank(pooled),
        eer=None if trials is None else eer(trials),
        sets=len(pooled),
        speakers=len(speakers),
        too_short=len(np.unique(ranking.speaker)) - len(speakers),
    )
