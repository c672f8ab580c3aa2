"""The class of metrics, their registry by name, and the scored comparisons that verification metrics map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.ties import TieGroups, tie_groups
from moretta.shared.core.array_types import Bool, Float64, Int64
from moretta.shared.core.errors import RunError
from moretta.shared.core.plugins import Registry

ScoreKind = Literal["trials", "ranking", "similarity"]
Middle = Literal["mean", "median"]
F = TypeVar("F", bound=Callable[[Any], float | None])


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    name: str
    function: Callable[[Any], float | None]
    """Maps `Trials`, `Ranking` or `Dominance`, by `kind`, to a number; to None where the trials cannot resolve it."""
    kind: ScoreKind
    unit: str
    chance: float | Callable[[int], float]
    """Value for an attacker without information: a number, or a function of the number of enrolled speakers."""
    private: Literal["high", "low"]
    """Which values mean that identity is hidden."""
    needs_llr: bool = False
    """Whether it is only meaningful for calibrated natural log-likelihood ratios."""
    tag: Callable[[float], str] | None = None
    """Puts a value into a category of a published scale."""

    def chance_among(self, speakers: int) -> float:
        """The chance value with so many enrolled speakers."""
        return self.chance(speakers) if callable(self.chance) else self.chance

    def worst(self, values: Mapping[int, float]) -> int | None:
        """The key of the least private value; of equal ones the smallest key. None of an empty mapping."""
        sign = 1.0 if self.private == "high" else -1.0
        return min(values, key=lambda key: (sign * values[key], key), default=None)


METRICS: Registry[Metric] = Registry(
    "metric", group="moretta.metrics", package="moretta.shared.audit.metrics", error=RunError
)


def metric(name: str, *, kind: ScoreKind = "trials", **settings: Any) -> Callable[[F], F]:
    """Register a pure function as a metric. `settings`: the other fields of `Metric`."""

    def register(function: F) -> F:
        METRICS.add(name, Metric(name, function, kind, **settings))
        return function

    return register


OfTies = Callable[[TieGroups], Float64]
"""The values [lists] of a metric of many lists of trials at once; NaN where a list cannot resolve it."""
OF_TIES: dict[Callable[[Any], float | None], OfTies] = {}
"""By the function that takes one list as `Trials`."""


def metric_of_ties(name: str, **settings: Any) -> Callable[[OfTies], Callable[[Trials], float]]:
    """Register a metric that counts of trials at each score are enough for; returns it as a function of `Trials`."""

    def register(values: OfTies) -> Callable[[Trials], float]:
        @wraps(values)
        def function(trials: Trials) -> float:
            return float(values(trials.ties)[0])

        OF_TIES[function] = values
        return metric(name, **settings)(function)

    return register


def metrics_of(kind: ScoreKind) -> list[Metric]:
    """All metrics of one kind, by name."""
    return [found for found in METRICS.items() if found.kind == kind]


def leaks_when_low(name: str) -> bool:
    """Whether low values of a metric mean that identity leaks; no metric that is not registered does."""
    return name in METRICS and METRICS.get(name).private == "high"


def have_sex(speakers: Int64, sex_of: Mapping[int, str], sex: str) -> Bool:
    """Which of these speakers have this sex; none whose sex is not stated."""
    return np.isin(speakers, [speaker for speaker, stated in sex_of.items() if stated == sex])


class Trials:
    """A list of comparisons: [n] each.

    Args:
        scores: float64, larger for more alike; any scale, except where a metric needs log-likelihood ratios.
        enrol_speaker: int, the true speaker of the enrolment.
        trial_speaker: int, the true speaker of the trial; mated where both are the same.

    Raises:
        RunError: lengths differ, a score is not finite, or a class is empty.
    """

    def __init__(self, scores: npt.ArrayLike, enrol_speaker: npt.ArrayLike, trial_speaker: npt.ArrayLike) -> None:
        self.scores: Float64 = np.asarray(scores, np.float64)
        self.enrol_speaker: Int64 = np.asarray(enrol_speaker, np.int64)
        self.trial_speaker: Int64 = np.asarray(trial_speaker, np.int64)
        shapes = [array.shape for array in (self.scores, self.enrol_speaker, self.trial_speaker)]
        if self.scores.ndim != 1 or len(set(shapes)) != 1:
            raise RunError(f"trial arrays of shapes {shapes}", expected="three vectors of one length")
        if infinite := int((~np.isfinite(self.scores)).sum()):
            found, fix = f"{infinite} of {len(self)} scores are not finite", "drop and count clips without an embedding"
            raise RunError(found, expected="finite scores", fix=fix)
        self.mated: Bool = self.enrol_speaker == self.trial_speaker
        if self.mated.all() or not self.mated.any():
            found = f"{int(self.mated.sum())} mated and {int((~self.mated).sum())} non-mated trials"
            raise RunError(found, expected="at least one of each", fix="audit two speakers with two clips each")

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def mated_scores(self) -> Float64:
        """float64 [mated]."""
        return self.scores[self.mated]

    @property
    def nonmated_scores(self) -> Float64:
        """float64 [non-mated]."""
        return self.scores[~self.mated]

    @property
    def speakers(self) -> Int64:
        """Distinct speakers of either side, sorted."""
        return np.union1d(self.enrol_speaker, self.trial_speaker)

    def subset(self, keep: Bool | Int64) -> Trials | None:
        """Trials chosen by a mask or by indices (repeats allowed); None if a class would be empty."""
        mated = self.mated[keep]
        if mated.size == 0 or mated.all() or not mated.any():
            return None
        part = object.__new__(Trials)  # a part of what was checked needs no check: bootstraps take thousands
        part.scores, part.mated = self.scores[keep], mated
        part.enrol_speaker, part.trial_speaker = self.enrol_speaker[keep], self.trial_speaker[keep]
        return part

    @property
    def enrolled(self) -> int:
        """How many speakers are enrolled."""
        return len(np.unique(self.enrol_speaker))

    def by_speaker(self) -> dict[int, Trials]:
        """Trials of each speaker; without speakers who have no mated or no non-mated trials."""
        own = ((int(s), self.of_speaker(s)) for s in np.unique(self.trial_speaker))
        return {speaker: part for speaker, part in own if part is not None}

    def of_speaker(self, speaker: int) -> Trials | None:
        """Trials of one speaker; None without mated or without non-mated ones."""
        return self.subset(self.trial_speaker == speaker)

    def of_sex(self, sex_of: Mapping[int, str], sex: str) -> Trials | None:
        """Comparisons in which both sides have this sex, as the VoicePrivacy Challenge pairs them; None if too few."""
        enrol, trial = (have_sex(speakers, sex_of, sex) for speakers in (self.enrol_speaker, self.trial_speaker))
        return self.subset(enrol & trial)

    def sorted(self) -> Trials:
        """The same trials by ascending score."""
        order = np.argsort(self.scores, kind="stable")
        return Trials(self.scores[order], self.enrol_speaker[order], self.trial_speaker[order])

    @cached_property
    def ties(self) -> TieGroups:
        """Counts of mated and non-mated trials at every distinct score, ascending."""
        return tie_groups(self.scores, self.mated, np.zeros(len(self), np.int64))

    def ties_by_speaker(self) -> tuple[list[int], TieGroups | None]:
        """The speakers of `by_speaker` in its order, and a list of tie groups for each; None without any."""
        speakers, row_of = np.unique(self.trial_speaker, return_inverse=True)
        mated, every = np.bincount(row_of, self.mated), np.bincount(row_of)
        both = (mated > 0) & (mated < every)
        if not both.any():
            return [], None
        keep, numbers = both[row_of], np.cumsum(both) - 1
        return speakers[both].tolist(), tie_groups(self.scores[keep], self.mated[keep], numbers[row_of[keep]])

    def drawn(self, weights: Int64) -> TieGroups | None:
        """Resamples of `sorted` trials that have some of both classes; None if none has.

        `weights`: int [resamples, n], how often each resample draws each trial.
        """
        every = weights.ravel()
        drawn = np.flatnonzero(every)
        lists, trial = np.divmod(drawn, len(self))
        times = every[drawn].astype(np.float64)
        mated = times * self.mated[trial]
        nonmated = times - mated
        both = np.bincount(lists, mated, len(weights)) * np.bincount(lists, nonmated, len(weights)) > 0
        if not both.any():
            return None
        if not both.all():
            keep = both[lists]
            lists, trial, mated, nonmated = (np.cumsum(both) - 1)[lists[keep]], trial[keep], mated[keep], nonmated[keep]
        score = np.cumsum(np.append(False, self.scores[1:] != self.scores[:-1]))
        place = score[trial]
        if score[-1] + 1 < len(self):
            first = np.flatnonzero(np.append(True, (place[1:] != place[:-1]) | (lists[1:] != lists[:-1])))
            mated, nonmated = np.add.reduceat(mated, first), np.add.reduceat(nonmated, first)
            lists, place = lists[first], place[first]
        starts = np.searchsorted(lists, np.arange(both.sum()))
        return TieGroups(mated, nonmated, starts, np.unique(self.scores), place)
