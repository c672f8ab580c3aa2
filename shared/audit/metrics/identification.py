"""Metrics of one-to-N identification: how often, and how high, the attacker ranks the right speaker.

Ties are averaged over their orders, so a constant score gives exactly chance and nothing is won by scoring alike.
"""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.metrics.metric import metric
from moretta.shared.audit.metrics.scores import Ranking, tie_span
from moretta.shared.core.array_types import Float64, Int64


@metric("top1", kind="ranking", unit="share", chance=lambda speakers: 1 / speakers, private="low")
def top1(ranking: Ranking) -> float:
    """Share of trials whose own speaker is ranked first, in [0, 1]; chance is 1 / s."""
    return float(hits(ranking, 1).mean())


@metric("top5", kind="ranking", unit="share", chance=lambda speakers: min(1.0, 5 / speakers), private="low")
def top5(ranking: Ranking) -> float | None:
    """Share of trials whose own speaker is among the first five, in [0, 1]; chance is 5 / s; None of s up to 5."""
    return float(hits(ranking, 5).mean()) if len(ranking.gallery) > 5 else None


@metric("mean_rank", kind="ranking", unit="rank", chance=lambda speakers: (speakers + 1) / 2, private="high")
def mean_rank(ranking: Ranking) -> float:
    """Mean rank of the right speaker, 1 to s; chance is (s + 1) / 2."""
    return float(ranks(ranking).mean())


@metric("median_rank", kind="ranking", unit="rank", chance=lambda speakers: (speakers + 1) / 2, private="high")
def median_rank(ranking: Ranking) -> float:
    """Median rank of the right speaker, 1 to s; chance is (s + 1) / 2."""
    return float(np.median(ranks(ranking)))


def hits(ranking: Ranking, k: int) -> Float64:
    """float64 [n], the chance that the right speaker is among the first k when ties are broken at random."""
    above, same = tie_span(ranking)
    return np.asarray(np.clip((k - above) / same, 0, 1), dtype=np.float64)


def ranks(ranking: Ranking) -> Float64:
    """float64 [n], the rank of the right speaker from 1, the mean rank among ties."""
    above, same = tie_span(ranking)
    return np.asarray(above + (same + 1) / 2, dtype=np.float64)


DRAWS = 20
"""Shuffles of a speaker's clips; each is cut into disjoint sets, and sets met before are dropped."""


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


def _sets(rows: Int64, length: int, rng: np.random.Generator) -> list[Int64]:
    """Distinct sets of `length` of these rows, disjoint within a shuffle."""
    whole = len(rows) // length * length
    found: dict[tuple[int, ...], Int64] = {}
    for _ in range(DRAWS if whole else 0):
        for chosen in np.sort(rng.permutation(rows)[:whole].reshape(-1, length), axis=1):
            found.setdefault(tuple(chosen.tolist()), chosen)
    return list(found.values())
