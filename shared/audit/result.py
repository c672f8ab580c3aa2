"""One figure of an audit, from the attacker to JSON to the page; and the strongest attacker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from moretta.shared.audit.metrics.intervals import Interval
from moretta.shared.audit.metrics.scores import leaks_when_low
from moretta.shared.core.atomic import disk_failed
from moretta.shared.core.errors import ClipError

Attack = Literal["identity", "attribute", "inversion", "cross-modal", "membership", "updates", "utility"]
Kind = Literal["adaptive", "trained", "pretrained"]
ANCHORS = frozenset({"unprotected", "constant"})
"""Scenarios that test the attacker, not the release."""
INFERENCES: tuple[Attack, ...] = ("attribute", "inversion", "cross-modal", "membership", "updates")
"""Attacks on other things than identity, in the order of a report."""
SIGNIFICANT = 0.05
FAILED = "it failed:"
"""Begins the reason of an attack that raised."""


class Result(BaseModel):
    """Figure of one attacker, or utility evaluator, in one scenario by one metric.

    `value` is None where there is no figure; `reason` then says why. An invalid result keeps its value, so that a
    reader sees what was discarded, and is never the strongest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    attack: Attack = "identity"
    target: str = "speaker"
    """Target of the inference: `speaker`, `sex`, `age group`, `membership of training clips`; `emotion` for utility."""
    modality: Literal["voice", "face", "both"]
    attacker: str
    """Name of the attacker or of the utility evaluator."""
    kind: Kind = "adaptive"
    scenario: str
    """Knowledge of the attacker (see `protocol`), or other data that it has: `decoded`, `model`, `updates`."""
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of a 95 % interval over speakers, or sites."""
    chance: float | None = None
    speakers: int = Field(default=0, ge=0)
    """Enrolled speakers, for identification; speakers among the trials, for verification; sites, for updates. In a
    result of a subset: those in it, while an identification still chooses among all who are enrolled."""
    clips: int = Field(default=0, ge=0)
    """Trial clips of these speakers."""
    invalid: bool = False
    """Whether the attacker failed a sanity check, or could not run: the result is no evidence of privacy."""
    reason: str = ""
    """The reason why the result is invalid or has no figure; otherwise empty."""
    note: str = ""
    """Remark that a reader needs to interpret the figure; may be empty."""
    subset: str = "all"
    """`all`, `female`, `male`, an age group, `worst` (the worst-off speaker), or a speaker's pseudonym."""
    pooled: int = Field(default=1, ge=1)
    """Trial clips of one speaker that the attacker knows to belong together."""
    tag: str = ""
    """Category of the value on the metric's published scale, where it has one: `0`, `A` to `F` of ZEBRA."""
    by_speaker: dict[str, float] = Field(default_factory=dict)
    """The figure of each speaker, by pseudonym, where speakers have no results of their own."""
    layer: str | None = None
    """Layer of the model, for attacks on updates."""
    p_value: float | None = Field(default=None, ge=0, le=1)
    """How often a random choice of as many speakers does as well, where that was tried."""
    left_out: int = Field(default=0, ge=0)
    """People whose released values lie so far outside those of the others that they were not attacked."""
    candidate: bool = False
    """One of a family of attackers for which another result, chosen on training people, stands: never the strongest."""

    def with_value(self, value: float | None, interval: Interval | None = None, **changes: Any) -> Self:
        """The same result with a figure and the ends of its interval."""
        low, high = interval or (None, None)
        return self.model_copy(update={"value": value, "low": low, "high": high, **changes})

    def invalidated(self, reason: str, **changes: Any) -> Self:
        """The same result, marked as one that is no evidence of privacy."""
        return self.model_copy(update={"invalid": True, "reason": reason, **changes})

    @property
    def is_anchor(self) -> bool:
        """Whether it tests the attacker, not the release."""
        return self.scenario in ANCHORS

    @property
    def is_whole(self) -> bool:
        """Whether it may stand for its attacker: valid, with a value, over all speakers, one clip a trial."""
        single = self.subset == "all" and self.pooled == 1
        return not self.invalid and not self.candidate and self.value is not None and single

    @property
    def excess(self) -> float:
        """How far the value lies on the attacker's side of chance; minus infinity without a value."""
        if self.value is None:
            return -float("inf")
        apart = self.value - (self.chance or 0.0)
        return -apart if leaks_when_low(self.metric) else apart

    @property
    def leaks(self) -> bool:
        """Valid, with the whole interval on the attacker's side of chance, and not by the choice of speakers."""
        if self.invalid or self.chance is None or self.low is None or self.high is None:
            return False
        if self.p_value is not None and self.p_value >= SIGNIFICANT:
            return False
        return self.high < self.chance if leaks_when_low(self.metric) else self.low > self.chance


def strongest(results: Iterable[Result]) -> Result | None:
    """The valid result farthest on the attacker's side of chance; the first of equals; None without any."""
    usable = [r for r in results if not r.invalid and not r.candidate and r.value is not None]
    return max(usable, key=lambda result: result.excess, default=None)


def of_fewest_clips(results: Iterable[Result]) -> list[Result]:
    """Results over all speakers, of single clips; of an attacker of pools, of its smallest pools, as its name says."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        if result.subset == "all":
            groups.setdefault((result.modality, result.attacker, result.scenario), []).append(result)
    found: list[Result] = []
    for group in groups.values():
        fewest = min(result.pooled for result in group)
        named = {} if fewest == 1 else {"attacker": f"{group[0].attacker}, {fewest} clips"}
        found += [result.model_copy(update=named) for result in group if result.pooled == fewest]
    return found


def of_emotion(results: Iterable[Result]) -> list[Result]:
    """The results of utility evaluators that are about emotion, and not about what else is left of a clip."""
    return [r for r in results if r.target == "emotion"]


def strongest_of_each(results: Iterable[Result]) -> list[Result]:
    """The strongest for each attack, modality, target and metric: over all speakers, of single clips, no anchors."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        if result.is_whole and not result.is_anchor:
            groups.setdefault((result.attack, result.modality, result.target, result.metric), []).append(result)
    return [found for group in groups.values() if (found := strongest(group)) is not None]


def failure(error: Exception) -> str:
    """The reason of an attack that raised, in one line, for readers who may not learn what originals are called.

    Only a disk that failed is raised again: it ends the audit.
    """
    if disk_failed(error):
        raise error
    text = str(error)
    if isinstance(error, ClipError):
        text = error.reason
    elif isinstance(error, OSError):
        text = error.strerror or "a file could not be used"
    return f"{FAILED} {type(error).__name__}: {text.partition(chr(10))[0][:400]}"
