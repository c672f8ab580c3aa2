"""Which candidate is chosen: most emotion among those that keep the cap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from moretta.shared.core.terms import Modality


class Candidate(BaseModel):
    """One anonymizer with its settings, and what an audit found in its release. None is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    modality: Modality
    section: dict[str, Any]
    """Of the study file, without what is its default."""
    uar: float | None = None
    """Emotion, by the best judge that was trained on releases of other people."""
    uar_low: float | None = None
    uar_high: float | None = None
    uar_chance: float | None = None
    evaluator: str = ""
    top1: float | None = None
    """Of the strongest attacker on single clips that is not invalid."""
    top1_upper: float | None = None
    """What is held against the cap: the largest upper end of the intervals of all attackers that are not invalid."""
    top1_chance: float | None = None
    top1_by: str = ""
    attackers: int = 0
    """Which were not invalid."""
    top1_pooled: float | None = None
    """Of the strongest attacker that knows `pooled` clips to be of one person. No cap is held against it."""
    pooled: int | None = None
    eer: float | None = None
    eer_by: str = ""
    excluded: str = ""
    """Why it cannot be chosen whatever the cap is; empty if it can."""


class Choice(BaseModel):
    """What was chosen out of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_top1: float
    chosen: Candidate | None
    nearest: Candidate | None
    """Where none keeps the cap: the one that comes nearest to it. None if one is chosen, or none can be."""
    candidates: tuple[Candidate, ...]

    @property
    def shown(self) -> Candidate | None:
        """The one whose audit is the proof."""
        return self.chosen or self.nearest


def choose(candidates: Sequence[Candidate], max_top1: float) -> Choice:
    """The best emotion UAR of those whose `top1_upper` is at most `max_top1`.

    Equal UARs go to the smaller upper end, then to the smaller top-1, then to the one that comes first. Nearest to a
    cap that none keeps is the smallest upper end; of equal ones, the best UAR.
    """
    able = [c for c in candidates if not c.excluded and c.uar is not None and c.top1_upper is not None]
    chosen = min(
        (c for c in able if _upper(c) <= max_top1), key=lambda c: (-_uar(c), _upper(c), c.top1 or 0.0), default=None
    )
    nearest = None if chosen else min(able, key=lambda c: (_upper(c), -_uar(c)), default=None)
    return Choice(max_top1=max_top1, chosen=chosen, nearest=nearest, candidates=tuple(candidates))


def _uar(candidate: Candidate) -> float:
    assert candidate.uar is not None
    return candidate.uar


def _upper(candidate: Candidate) -> float:
    assert candidate.top1_upper is not None
    return candidate.top1_upper
