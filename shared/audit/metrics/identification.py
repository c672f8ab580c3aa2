"""One-to-N identification: scores of every trial against all enrolled speakers, and the rank of the right one.

Ties are averaged over their orders, so a constant score gives exactly chance and nothing is won by scoring alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from moretta.shared.audit.metrics.scores import Middle, Trials, have_sex, metric
from moretta.shared.core.array_types import Bool, Float64, Int64
from moretta.shared.core.errors import RunError


@dataclass(eq=False)
class Ranking:
    """A score matrix with the truth.

    Args:
        scores: float64 [n, s], larger for more alike (log-scores, where clips are to be pooled).
        gallery: int [s], the distinct enrolled speakers.
        speaker: int [n], the true speaker of each trial, each one in the gallery.
        of_pools: scores [pools, s] of pools [pools, length] of trials of one speaker, by an attacker of pools alone;
            None means the mean scores of their trials.

    Raises:
        RunError: shapes differ, a score is not finite, the gallery has repeats, or a trial's speaker is not in it.
    """

    scores: Float64
    gallery: Int64
    speaker: Int64
    of_pools: Callable[[Int64], Float64] | None = None

    def __post_init__(self) -> None:
        self.scores = np.asarray(self.scores, np.float64)
        self.gallery, self.speaker = np.asarray(self.gallery, np.int64), np.asarray(self.speaker, np.int64)
        shape = len(self.speaker), len(self.gallery)
        if self.scores.shape != shape or not self.scores.size:
            raise RunError(f"scores of shape {self.scores.shape}", expected=f"{shape}, not empty")
        if not np.isfinite(self.scores).all():
            raise RunError("identification scores that are not finite", expected="finite scores")
        if len(np.unique(self.gallery)) != len(self.gallery) or not np.isin(self.speaker, self.gallery).all():
            found = "a gallery with repeats, or a trial of a speaker who is not enrolled"
            raise RunError(found, expected="every trial's speaker enrolled once")

    def __len__(self) -> int:
        return len(self.speaker)

    @property
    def truth(self) -> Int64:
        """int [n], the column of each trial's own speaker."""
        order = np.argsort(self.gallery)
        return order[np.searchsorted(self.gallery, self.speaker, sorter=order)].astype(np.int64)

    @property
    def speakers(self) -> Int64:
        """Distinct speakers of the trials, sorted."""
        return np.unique(self.speaker)

    @property
    def enrolled(self) -> int:
        """How many speakers are enrolled."""
        return len(self.gallery)

    def by_speaker(self) -> dict[int, Ranking]:
        """Each speaker's trials."""
        return {int(s): self.rows(self.speaker == s) for s in self.speakers}

    def of_sex(self, sex_of: Mapping[int, str], sex: str) -> Ranking | None:
        """Trials of speakers of this sex against everybody; None without any."""
        keep = have_sex(self.speaker, sex_of, sex)
        return self.rows(keep) if keep.any() else None

    def rows(self, keep: Bool | Int64) -> Ranking:
        """Trials chosen by a mask or by indices, at least one; the gallery stays."""
        part = object.__new__(Ranking)  # not checked again: see `Trials.subset`
        part.scores, part.gallery, part.speaker = self.scores[keep], self.gallery, self.speaker[keep]
        return part

    def trials(self) -> Trials | None:
        """The same scores as verification trials, n * s of them; None of a gallery of one."""
        n, s = self.scores.shape
        return Trials(self.scores.ravel(), np.tile(self.gallery, n), np.repeat(self.speaker, s)) if s > 1 else None

    @cached_property
    def tie_span(self) -> tuple[Int64, Int64]:
        """Speakers scored above each trial's own, and those (itself included) scored the same. int [n] each."""
        own = np.take_along_axis(self.scores, self.truth[:, None], axis=1)
        return (self.scores > own).sum(axis=1).astype(np.int64), (self.scores == own).sum(axis=1).astype(np.int64)


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
    above, same = ranking.tie_span
    return np.asarray(np.clip((k - above) / same, 0, 1), dtype=np.float64)


def ranks(ranking: Ranking) -> Float64:
    """float64 [n], the rank of the right speaker from 1, the mean rank among ties."""
    above, same = ranking.tie_span
    return np.asarray(above + (same + 1) / 2, dtype=np.float64)


EACH_TRIAL: dict[Callable[[Any], float | None], tuple[Callable[[Ranking], Float64], Middle]] = {
    top1: (partial(hits, k=1), "mean"),
    top5: (partial(hits, k=5), "mean"),
    mean_rank: (ranks, "mean"),
    median_rank: (ranks, "median"),
}
"""Metrics that are the mean, or the median, of a value of each trial: their resamples are drawn at once."""
DRAWS = 20
"""Shuffles of a speaker's clips; each is cut into disjoint sets, and sets met before are dropped."""


def pool(ranking: Ranking, length: int, *, seed: int = 0, most: int | None = None) -> Ranking | None:
    """Scores of sets of `length` trials of one speaker, as many distinct sets as the shuffles give.

    With `length` 1 these are the trials themselves, once each. None where no speaker has so many trials. `most`: sets
    of each speaker, at most.
    """
    sets = _sets(tuple(ranking.speaker.tolist()), length, seed, most)
    if not len(sets):
        return None
    scores = ranking.scores[sets].mean(axis=1) if ranking.of_pools is None else ranking.of_pools(sets)
    return Ranking(scores, ranking.gallery, ranking.speaker[sets[:, 0]])


@lru_cache(maxsize=16)
def _sets(speaker: tuple[int, ...], length: int, seed: int, most: int | None) -> Int64:
    """Rows [sets, length] of distinct sets of one speaker each: the same for all attackers."""
    rng, numbers = np.random.default_rng(seed), np.array(speaker)
    sets: list[Int64] = []
    for one in np.unique(numbers):
        rows = np.flatnonzero(numbers == one)
        found: dict[bytes, Int64] = {}
        whole = len(rows) // length * length
        for _ in range(DRAWS if whole else 0):
            for chosen in np.sort(rng.permutation(rows)[:whole].reshape(-1, length), axis=1):
                found.setdefault(chosen.tobytes(), chosen)
        sets += list(found.values())[:most]
    return np.array(sets, np.int64).reshape(-1, length)
