"""Identification trials: every trial scored against every enrolled speaker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.trials import Bools, Floats, Ints, Trials
from moretta.shared.core.errors import RunError


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

    scores: Floats
    gallery: Ints
    speaker: Ints

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        object.__setattr__(self, "gallery", np.asarray(self.gallery, dtype=np.int64))
        object.__setattr__(self, "speaker", np.asarray(self.speaker, dtype=np.int64))
        if self.scores.shape != (len(self.speaker), len(self.gallery)) or not self.scores.size:
            raise RunError(
                f"scores of shape {self.scores.shape}",
                expected=f"({len(self.speaker)}, {len(self.gallery)}), not empty",
            )
        if not np.isfinite(self.scores).all():
            raise RunError("identification scores that are not finite", expected="finite scores")
        if len(np.unique(self.gallery)) != len(self.gallery) or not np.isin(self.speaker, self.gallery).all():
            raise RunError(
                "a gallery with repeats, or a trial of a speaker who is not enrolled",
                expected="every trial's speaker enrolled once",
            )

    def __len__(self) -> int:
        return len(self.speaker)

    @property
    def truth(self) -> Ints:
        """int [n], the column of each trial's own speaker."""
        order = np.argsort(self.gallery)
        return order[np.searchsorted(self.gallery, self.speaker, sorter=order)].astype(np.int64)

    def rows(self, keep: Bools | Ints) -> Ranking:
        """Trials chosen by a mask or by indices; the gallery stays.

        Raises:
            RunError: none is chosen.
        """
        speaker = self.speaker[keep]
        if not len(speaker):
            raise RunError("no identification trial chosen", expected="at least one")
        part = object.__new__(Ranking)  # a part of what was checked needs no check: bootstraps take thousands
        for name, value in (("scores", self.scores[keep]), ("gallery", self.gallery), ("speaker", speaker)):
            object.__setattr__(part, name, value)
        return part

    def trials(self) -> Trials | None:
        """The same scores as verification trials, n * s of them; None of a gallery of one."""
        n, s = self.scores.shape
        if s < 2:
            return None
        return Trials.of_speakers(self.scores.ravel(), np.tile(self.gallery, n), np.repeat(self.speaker, s))


def tie_span(ranking: Ranking) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each trial, the speakers scored above its own, and those (itself included) scored the same. int [n] each."""
    own = ranking.scores[np.arange(len(ranking)), ranking.truth][:, None]
    above = (ranking.scores > own).sum(axis=1)
    same = (ranking.scores == own).sum(axis=1)
    return above.astype(np.int64), same.astype(np.int64)
