"""One figure of an audit, and the headline: the strongest attacker that is not invalid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moretta.shared.audit.attackers.attacker_registry import Kind
from moretta.shared.audit.scenarios import ScenarioName, get_scenario
from moretta.shared.core.terms import Modality


class AuditRow(BaseModel):
    """What one attacker reached in one scenario, by one metric, with its chance level beside it.

    `value` is None where the figure could not be had; `reason` then says why. An invalid row keeps its value, so that a
    reader sees what was discarded, and can never be the headline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    modality: Modality
    attacker: str
    kind: Kind
    scenario: ScenarioName
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float
    speakers: int = Field(ge=0)
    """Enrolled speakers, for identification; speakers among the trials, for verification. In a row of a subset: those
    in it, while an identification still chooses among all who are enrolled, and `chance` says so."""
    clips: int = Field(ge=0)
    """Their trial clips."""
    invalid: bool = False
    reason: str = ""
    subset: str = "all"
    """`all`, `female`, `male`, `worst` (the worst-off speaker), or a speaker's pseudonym."""
    pooled: int = Field(default=1, ge=1)
    """Trial clips of one speaker that the attacker knows to belong together."""
    tag: str = ""
    """Category of the value on the metric's published scale, where it has one: `0`, `A` to `F` of ZEBRA."""
    by_speaker: dict[str, float] = Field(default_factory=dict)
    """The same figure of each speaker, by pseudonym, where speakers have no rows of their own."""


class StrongestAttacks(BaseModel):
    """The strongest attacks on one modality; None where every attacker is invalid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Modality
    top1: AuditRow | None
    eer: AuditRow | None


def headline(rows: Iterable[AuditRow]) -> list[StrongestAttacks]:
    """By modality: the highest top-1 and the lowest EER that any attacker reached on released clips."""
    counted = [
        row
        for row in rows
        if not row.invalid
        and row.value is not None
        and row.subset == "all"
        and row.pooled == 1
        and not get_scenario(row.scenario).anchor
    ]
    modalities: tuple[Literal["voice", "face"], ...] = ("voice", "face")
    return [
        StrongestAttacks(
            modality=modality,
            top1=max(_of(counted, modality, "top1"), key=_value, default=None),
            eer=min(_of(counted, modality, "eer"), key=_value, default=None),
        )
        for modality in modalities
        if any(row.modality == modality for row in counted)
    ]


def _of(rows: list[AuditRow], modality: Modality, metric: str) -> list[AuditRow]:
    return [row for row in rows if row.modality == modality and row.metric == metric]


def _value(row: AuditRow) -> float:
    assert row.value is not None
    return row.value
