"""Scores with the truth: comparisons, for verification, and trials against enrolled speakers, for identification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Bool, Float64, Int64
from moretta.shared.core.errors import RunError


def _set(record: object, **values: object) -> None:
    """Set fields of a frozen record while it is made."""
    for name, value in values.items():
        object.__setattr__(record, name, value)


@dataclass(frozen=True)
class TieGroups:
    """Trials of one score counted together, by ascending score: ties have no order.

    `scores`, `mated`, `nonmated`: float64 [groups]; the last two are counts.
    """

    scores: Float64
    mated: Float64
    nonmated: Float64


@dataclass(frozen=True, eq=False)
class Trials:
    """A list of comparisons.

    Args:
        scores: float64 [n], larger for more alike; any scale, except where a metric asks for log-likelihood ratios.
        mated: bool [n], whether both sides are the same speaker.
        enrol_speaker: int [n], the true speaker of the enrolment.
        trial_speaker: int [n], the true speaker of the trial.

    Raises:
        RunError: lengths differ, a score is not finite, a class is empty, or `mated` contradicts the speakers.
    """

    scores: Float64
    mated: Bool
    enrol_speaker: Int64
    trial_speaker: Int64

    def __post_init__(self) -> None:
        _set(self, scores=np.asarray(self.scores, dtype=np.float64), mated=np.asarray(self.mated, dtype=np.bool_))
        _set(self, enrol_speaker=np.asarray(self.enrol_speaker, dtype=np.int64))
        _set(self, trial_speaker=np.asarray(self.trial_speaker, dtype=np.int64))
        shapes = [a.shape for a in (self.scores, self.mated, self.enrol_speaker, self.trial_speaker)]
        if self.scores.ndim != 1 or len(set(shapes)) != 1:
            raise RunError(f"trial arrays of shapes {shapes}", expected="four vectors of one length")
        if not np.isfinite(self.scores).all():
            raise RunError(
                f"{int((~np.isfinite(self.scores)).sum())} of {len(self)} scores are not finite",
                expected="finite scores",
                fix="drop and count the clips that the attacker could not embed",
            )
        if self.mated.all() or not self.mated.any():
            raise RunError(
                f"{int(self.mated.sum())} mated and {int((~self.mated).sum())} non-mated trials",
                expected="at least one of each",
                fix="give the audit two speakers with two clips each",
            )
        if not np.array_equal(self.mated, self.enrol_speaker == self.trial_speaker):
            raise RunError("`mated` contradicts the speakers", expected="mated where both sides are the same speaker")

    @classmethod
    def of_speakers(cls, scores: npt.ArrayLike, enrol_speaker: npt.ArrayLike, trial_speaker: npt.ArrayLike) -> Trials:
        """Trials whose `mated` follows from the speakers."""
        enrol, trial = np.asarray(enrol_speaker, dtype=np.int64), np.asarray(trial_speaker, dtype=np.int64)
        return cls(np.asarray(scores, dtype=np.float64), enrol == trial, enrol, trial)

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
        _set(part, scores=self.scores[keep], mated=mated)
        _set(part, enrol_speaker=self.enrol_speaker[keep], trial_speaker=self.trial_speaker[keep])
        return part

    def of_speaker(self, speaker: int) -> Trials | None:
        """Comparisons of one speaker's trials with everybody's enrolment; None if it lacks mated or non-mated ones."""
        return self.subset(self.trial_speaker == speaker)

    def of_sex(self, sex_of: Mapping[int, str], sex: str) -> Trials | None:
        """Comparisons in which both sides have this sex, as the VoicePrivacy Challenge pairs them; None if too few."""
        members = np.array([s for s, value in sex_of.items() if value == sex], dtype=np.int64)
        return self.subset(np.isin(self.enrol_speaker, members) & np.isin(self.trial_speaker, members))

    def sorted(self) -> Trials:
        """The same trials by ascending score, so that sorting their resamples is cheap."""
        order = np.argsort(self.scores, kind="stable")
        return Trials(self.scores[order], self.mated[order], self.enrol_speaker[order], self.trial_speaker[order])

    @cached_property
    def ties(self) -> TieGroups:
        """Counts of mated and non-mated trials at every distinct score, ascending."""
        order = np.argsort(self.scores, kind="stable")
        scores = self.scores[order]
        starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        mated = np.add.reduceat(self.mated[order].astype(np.float64), starts)
        total = np.diff(np.append(starts, len(scores))).astype(np.float64)
        return TieGroups(scores[starts], mated, total - mated)


@dataclass(frozen=True, eq=False)
class Ranking:
    """A score matrix with the truth.

    Args:
        scores: float64 [n, s], larger for more alike (log-scores, where clips are to be pooled).
        gallery: int [s], the distinct enrolled speakers.
        speaker: int [n], the true speaker of each trial, each one in the gallery.

    Raises:
        RunError: shapes differ, a score is not finite, the gallery has repeats, or a trial's speaker is not in it.
    """

    scores: Float64
    gallery: Int64
    speaker: Int64

    def __post_init__(self) -> None:
        _set(self, scores=np.asarray(self.scores, dtype=np.float64), gallery=np.asarray(self.gallery, dtype=np.int64))
        _set(self, speaker=np.asarray(self.speaker, dtype=np.int64))
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

    def rows(self, keep: Bool | Int64) -> Ranking:
        """Trials chosen by a mask or by indices; the gallery stays.

        Raises:
            RunError: none is chosen.
        """
        speaker = self.speaker[keep]
        if not len(speaker):
            raise RunError("no identification trial chosen", expected="at least one")
        part = object.__new__(Ranking)  # not checked again: see `Trials.subset`
        _set(part, scores=self.scores[keep], gallery=self.gallery, speaker=speaker)
        return part

    def trials(self) -> Trials | None:
        """The same scores as verification trials, n * s of them; None of a gallery of one."""
        n, s = self.scores.shape
        if s < 2:
            return None
        return Trials.of_speakers(self.scores.ravel(), np.tile(self.gallery, n), np.repeat(self.speaker, s))


def tie_span(ranking: Ranking) -> tuple[Int64, Int64]:
    """For each trial, the speakers scored above its own, and those (itself included) scored the same. int [n] each."""
    own = ranking.scores[np.arange(len(ranking)), ranking.truth][:, None]
    above = (ranking.scores > own).sum(axis=1)
    same = (ranking.scores == own).sum(axis=1)
    return above.astype(np.int64), same.astype(np.int64)
