"""One figure of an attack beyond identity, as reports and `audit.json` hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from moretta.shared.audit.inference.attack_result import Leak
    from moretta.shared.audit.metrics.bootstrap import Interval
    from moretta.shared.audit.metrics.trials import Trials

Attack = Literal["attribute", "membership", "inversion", "updates", "cross-modal"]
Source = Literal["original", "released", "decoded", "model", "updates"]
"""What the attacker looked at. `original` is the anchor: what it finds there shows that it works."""
SIGNIFICANT = 0.05
ATTACKS: tuple[Attack, ...] = ("attribute", "inversion", "cross-modal", "membership", "updates")
"""In the order of a report."""


class InferenceFinding(BaseModel):
    """What one attacker found, with its chance level beside it.

    `value` is None where there is no figure; `invalid` with its `reason` says that it must not be read as privacy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    attack: Attack
    modality: Literal["voice", "face", "both"]
    target: str
    """What is inferred: `sex`, `age group`, `speaker`, `membership of training clips`."""
    attacker: str
    source: Source
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    """Ends of a 95 % interval over people, or sites."""
    chance: float | None
    speakers: int = Field(ge=0)
    clips: int = Field(default=0, ge=0)
    invalid: bool = False
    reason: str = ""
    """Why it is invalid, or has no figure."""
    note: str = ""
    """What a reader must keep in mind."""
    layer: str | None = None
    """Of the model, for updates."""
    p_value: float | None = Field(default=None, ge=0, le=1)
    """How often a random choice of as many people does as well, where that was tried."""

    @property
    def leaks(self) -> bool:
        """Counts, and its whole interval lies on the attacker's side of chance, not by the luck of who was chosen."""
        if self.invalid or self.chance is None or self.low is None or self.high is None:
            return False
        if self.p_value is not None and self.p_value >= SIGNIFICANT:
            return False
        return self.high < self.chance if self.metric == "eer" else self.low > self.chance

    def invalidated(self, reason: str) -> InferenceFinding:
        """The same figure, marked as one that shows no privacy."""
        return self.model_copy(update={"invalid": True, "reason": reason})


def invalid_finding(
    attack: Attack, modality: str, target: str, source: Source, reason: str, *, speakers: int = 0
) -> InferenceFinding:
    """An attack that could not be run, or failed."""
    return InferenceFinding.model_validate(
        {
            "attack": attack,
            "modality": modality,
            "target": target,
            "attacker": "none",
            "source": source,
            "metric": "none",
            "value": None,
            "chance": None,
            "speakers": speakers,
            "invalid": True,
            "reason": reason,
        }
    )


def what_failed(error: Exception) -> str:
    """The reason of an attack that raised, in one line."""
    first = str(error).partition("\n")[0][:200]
    return f"the attack failed: {type(error).__name__}: {first}"


def from_leak(
    leak: Leak, attack: Attack, modality: str, source: Source, *, metric: str, clips: int, layer: bool = False
) -> InferenceFinding:
    """A `Leak`. `layer`: its `attacker` names a layer."""
    low, high = ends(leak.interval)
    return InferenceFinding.model_validate(
        {
            "attack": attack,
            "modality": modality,
            "target": leak.target,
            "attacker": "logistic regression" if layer else leak.attacker,
            "source": source,
            "metric": metric,
            "value": leak.value,
            "low": low,
            "high": high,
            "chance": leak.chance,
            "speakers": leak.speakers,
            "clips": clips,
            "invalid": leak.invalid is not None,
            "reason": leak.invalid or "",
            "layer": leak.attacker if layer else None,
        }
    )


def from_trials(
    trials: Trials | None, modality: str, source: Source, attacker: str, *, bootstrap: int, seed: int
) -> InferenceFinding:
    """The EER of an inversion's trials, with its interval over speakers."""
    from moretta.shared.audit.metrics.bootstrap import bootstrap_trials
    from moretta.shared.audit.metrics.eer import eer

    common: dict[str, object] = {"attack": "inversion", "modality": modality, "target": "speaker", "metric": "eer"}
    common |= {"attacker": attacker, "source": source, "chance": 0.5}
    if trials is None:
        why = "no speaker has a clip left to try"
        return InferenceFinding.model_validate({**common, "value": None, "speakers": 0, "invalid": True, "reason": why})
    interval = bootstrap_trials({"eer": eer}, trials, resamples=bootstrap, seed=seed)["eer"] if bootstrap else None
    low, high = ends(interval)
    speakers = len(trials.speakers)
    figures = {"value": eer(trials), "low": low, "high": high, "speakers": speakers, "clips": int(trials.mated.sum())}
    return InferenceFinding.model_validate(common | figures)


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    """Low and high end, or twice nothing."""
    return (None, None) if interval is None else (interval.low, interval.high)


def validated_by_anchor(findings: Sequence[InferenceFinding]) -> list[InferenceFinding]:
    """Attribute findings on releases, invalid where the same attacker cannot infer the attribute from originals."""
    anchors = {(f.target, f.attacker, f.metric): f for f in findings if f.source == "original"}

    def validated(finding: InferenceFinding) -> InferenceFinding:
        anchor = anchors.get((finding.target, finding.attacker, finding.metric))
        if finding.source == "original" or finding.invalid or anchor is None or anchor.leaks:
            return finding
        figure = "no figure" if anchor.value is None else f"{anchor.value:.3f}, chance {anchor.chance:.3f}"
        return finding.invalidated(f"it cannot infer the {finding.target} from unprotected clips either ({figure})")

    return [validated(finding) for finding in findings]


def strongest_of(findings: Iterable[InferenceFinding]) -> list[InferenceFinding]:
    """By attack, modality, target and metric: the figure farthest on the attacker's side of chance; no anchors."""
    best: dict[tuple[str, str, str, str], InferenceFinding] = {}
    for finding in findings:
        if finding.invalid or finding.value is None or finding.chance is None or finding.source == "original":
            continue
        key = (finding.attack, finding.modality, finding.target, finding.metric)
        if key not in best or _excess(finding) > _excess(best[key]):
            best[key] = finding
    return list(best.values())


def _excess(finding: InferenceFinding) -> float:
    assert finding.value is not None and finding.chance is not None
    return (finding.chance - finding.value) if finding.metric == "eer" else (finding.value - finding.chance)
