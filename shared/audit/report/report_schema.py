"""Records of `report.json`, whose names scripts, the HTML and later versions rely on; and its emotion tables, computed
from predictions.

All records are frozen, refuse unknown keys and hold no NaN or infinity: unknown or undefined values are null.
Fractions are in [0, 1], never percent. `low` and `high` are the ends of a 95 % interval over speakers, null where
fewer than two speakers were there to draw from.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Int64
from moretta.shared.core.errors import RunError
from moretta.shared.core.labels import EMOTIONS, original_columns

FORMAT_VERSION: Literal[2] = 2
"""Changes when a name of the contract changes its meaning or goes away, not when one is added."""

Modality = Literal["voice", "face", "fused", "learned"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Base of all parts of a report."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassScore(Record):
    """Scores of one emotion. Null where nothing divides: precision of a class never predicted, recall of one absent."""

    emotion: str
    precision: Fraction | None
    recall: Fraction | None
    f1: Fraction | None
    clips: Count  # clips that truly have this emotion


class EmotionTable(Record):
    """How well emotion was recognised on clips of speakers who were not trained on."""

    classes: tuple[str, ...] = Field(min_length=1)
    accuracy: Fraction
    accuracy_low: Fraction | None = None
    accuracy_high: Fraction | None = None
    uar: Fraction  # unweighted average recall, over the classes that occur
    uar_low: Fraction | None = None
    uar_high: Fraction | None = None
    chance: Fraction  # UAR of guessing: 1 / number of classes that occur
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[Count, ...], ...]  # [true class, predicted class], in clips, in the order of `classes`
    clips: Count
    speakers: Count
    model: str = ""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        size = len(self.classes)
        if len(self.confusion) != size or any(len(row) != size for row in self.confusion):
            raise ValueError(f"the confusion matrix is not {size} x {size}, as its {size} classes ask")
        if tuple(score.emotion for score in self.per_class) != self.classes:
            raise ValueError("per_class does not list the classes in their order")
        return self


class ReliabilityBin(Record):
    """Clips for which a model was about equally sure."""

    clips: Count
    right: Count
    confidence: Fraction  # mean of the probabilities that the model gave to what it chose


class EmotionResult(EmotionTable):
    """The six-class table, and the ANG/HAP/SAD table of the original study."""

    three_class: EmotionTable | None = None
    ece: Fraction | None = None
    """Expected calibration error of the six-class probabilities: how far confidence is from being right."""
    reliability: tuple[ReliabilityBin, ...] = ()
    """Bins of confidence from which `ece` is computed, those with clips, from low to high confidence."""


class EmotionResults(Record):
    """Emotion by modality; null where the modality is absent, with the reason in `absent`."""

    voice: EmotionResult | None = None
    face: EmotionResult | None = None
    fused: EmotionResult | None = None  # the vote: a weighted mean of probabilities
    learned: EmotionResult | None = None
    """Learned fusion; null without a reason in `absent` where the study requests none."""
    absent: dict[Modality, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _absence_is_explained(self) -> Self:
        for modality, result in self.by_modality().items():
            if (result is None) != (modality in self.absent):
                raise ValueError(f"{modality} must have either a result or a reason in `absent`")
        return self

    def by_modality(self) -> dict[Modality, EmotionResult | None]:
        """Voice, face, fused, and learned where the study has it, in this order."""
        found: dict[Modality, EmotionResult | None] = {"voice": self.voice, "face": self.face, "fused": self.fused}
        if self.learned is not None or "learned" in self.absent:
            found["learned"] = self.learned
        return found


class PublicStart(Record):
    """A model that learned from public people alone before its first round: what federation adds to it can be seen."""

    people: Count
    clips: Count
    result: EmotionResult | None = None
    """On the same people as the result after federation; null where nobody is held out."""


def emotion_result(
    scores: npt.ArrayLike,
    truth: Sequence[int] | Int64,
    speakers: Sequence[Hashable],
    *,
    seed: int,
    draws: int = 1000,
    model: str = "",
    classes: Sequence[str] = EMOTIONS,
) -> EmotionResult:
    """Score predictions on clips of held-out speakers.

    The ANG/HAP/SAD table takes the clips of these three and the highest of their three scores: the question of the
    original study, put to the same model.

    Args:
        scores: [n, c] score of each class, higher is likelier.
        truth: [n] class indices.
        speakers: [n] pseudonyms.
        draws: bootstrap samples; 0 gives no intervals.
        classes: [c] names of the classes.

    Raises:
        RunError: there is no clip, the lengths differ, or a score is not finite.
    """
    table, labels = np.asarray(scores, np.float64), np.asarray(truth, np.int64)
    if not len(labels) or table.shape != (len(speakers), len(classes)) or not np.isfinite(table).all():
        found = f"emotion scores of shape {list(table.shape)} for {len(labels)} clips and {len(speakers)} speakers"
        expected = f"one finite row of {len(classes)} scores for each of at least one clip"
        raise RunError(found, expected=expected, fix="check that the fold has clips and the model did not diverge")

    def scored(kept: Int64, columns: Sequence[int]) -> EmotionTable:
        predicted = table[kept][:, list(columns)].argmax(axis=1)
        mine = [columns.index(label) for label in labels[kept]]
        counts = confusion.confusion_by_speaker(mine, predicted, [speakers[i] for i in kept], classes=len(columns))
        return table_from_counts(counts, [classes[column] for column in columns], seed=seed, draws=draws, model=model)

    columns = list(original_columns(classes))
    kept = np.flatnonzero(np.isin(labels, columns))
    whole = scored(np.arange(len(labels)), range(len(classes)))
    return EmotionResult(**whole.model_dump(), three_class=scored(kept, columns) if len(kept) else None)


def table_from_counts(
    by_speaker: confusion.Counts, classes: Sequence[str], *, seed: int, draws: int = 1000, model: str = ""
) -> EmotionTable:
    """Score confusion counts [s, c, c] of each speaker."""
    counts = by_speaker.sum(axis=0)
    figures: dict[str, float | None] = {}
    for name, score in (("accuracy", confusion.accuracy), ("uar", confusion.uar)):
        low, high = confusion.bootstrap(by_speaker, score, seed=seed, draws=draws) or (None, None)
        figures |= {name: float(score(counts)), f"{name}_low": low, f"{name}_high": high}
    support = counts.sum(axis=1)
    scores = zip(confusion.precision(counts), confusion.recall(counts), confusion.f1(counts), strict=True)
    per_class = []
    for name, clips, of_class in zip(classes, support, scores, strict=True):
        precision, recall, f1 = (None if np.isnan(value) else float(value) for value in of_class)
        per_class.append(ClassScore(emotion=str(name), precision=precision, recall=recall, f1=f1, clips=int(clips)))
    rest = {"chance": 1 / int((support > 0).sum()), "clips": int(counts.sum()), "speakers": len(by_speaker)}
    names, confused = [str(name) for name in classes], counts.tolist()
    content = {**figures, **rest, "classes": names, "per_class": per_class, "confusion": confused, "model": model}
    return EmotionTable.model_validate(content)


class PrivacyRow(Record):
    """One privacy figure of one mechanism at one site, with its unit."""

    site: str
    mechanism: str
    unit: Literal["value", "frame", "clip", "speaker", "site"]
    epsilon: float | None = Field(ge=0)  # what is guaranteed, composed to the unit; null is no finite guarantee
    delta: float = Field(default=0.0, ge=0, lt=1)
    nominal: float | None = Field(default=None, ge=0)
    """Epsilon by the mechanism's own parameters at this unit, whether or not its assumptions hold."""
    note: str = ""
    round: int | None = Field(default=None, ge=0)
    """Last round that the figure includes; null for a loss that does not grow with rounds."""


class DropCount(Record):
    """Clips or files not used, by reason."""

    reason: str
    count: Count


class CorpusPart(Record):
    """The corpus of the study. No file name and no speaker number appears in a report."""

    name: str
    synthetic: bool
    labels: str
    clips: Count
    speakers: Count
    dropped: tuple[DropCount, ...] = ()


class StageRow(Record):
    """One stage of the run and how fast it went."""

    name: str
    seconds: Seconds
    clips_per_second: float | None = Field(default=None, ge=0)
    frames_per_second: float | None = Field(default=None, ge=0)
    times_real_time: float | None = Field(default=None, ge=0)


class SiteRow(Record):
    """One site's part in the run."""

    site: str
    speakers: Count
    clips: Count
    rounds: Count  # training rounds it took part in
    dropped: Count = 0
    missed: tuple[str, ...] = ()
    """Stages and rounds without this site, because it was lost, revoked, or sent unusable data."""
    seconds: Seconds | None = None  # from each message to it until its reply was there, all together
    bytes_sent: Count | None = None  # to it
    bytes_received: Count | None = None  # from it


class RoundRow(Record):
    """One round of federated training."""

    stage: str
    round: Count
    sites: Count
    failed: Count = 0
    loss: float | None = None
    uar: Fraction | None = None
    seconds: Seconds | None = None


class RunPart(Record):
    """How the figures came about, enough to get them again."""

    seed: int
    versions: dict[str, str]
    device: str = "cpu"  # of a simulation's training and of the audit; what a real site uses, the server never learns
    command: str
    seconds: Seconds
    finished: str = ""  # UTC, ISO 8601
    stages: tuple[StageRow, ...] = ()
    peak_memory_bytes: Count | None = None
    seeded_noise: bool  # privacy noise came from the seed: with the seed it can be subtracted
    deployment: bool = False
    """Over enrolled sites, whose original recordings never reached the server; false is a simulation."""
    study: dict[str, Any]
    face_preset: str | None = None
    warnings: tuple[str, ...] = ()
    sites: tuple[SiteRow, ...] = ()
    rounds: tuple[RoundRow, ...] = ()

    @field_validator("study")
    @classmethod
    def _study_is_plain_json(cls, study: dict[str, Any]) -> dict[str, Any]:
        json.dumps(study, allow_nan=False)  # raises ValueError for what JSON cannot hold
        return study


State = Literal["fails", "inconclusive", "passes"]


class Criterion(Record):
    """One acceptance criterion, held against the strongest attacker's figure or a site's budget."""

    of: str  # a modality, or a site
    metric: str  # `top1`, `eer` or `epsilon`
    limit: float | None  # null where chance is not known, which the default limit of top-1 is a multiple of
    set_by_study: bool  # in `[gate]`; false is a default of Moretta
    state: State
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""  # it does not pass, where the figure alone does not show that


class GatePart(Record):
    """The verdict against all acceptance criteria, and the limits set by the study itself that the run broke."""

    passed: bool  # no limit that the study sets is broken; what the criteria together show is `verdict`
    broken: tuple[str, ...] = ()
    verdict: State = "inconclusive"
    criteria: tuple[Criterion, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.passed == bool(self.broken):
            raise ValueError(f"the gate says passed={self.passed} with {len(self.broken)} broken limits")
        if self.verdict == "passes" and {criterion.state for criterion in self.criteria} != {"passes"}:
            raise ValueError("the verdict is that the release passes, and not all of at least one criterion pass")
        return self


class HeadlineFigure(Record):
    """The strongest attacker by one metric, next to what it is measured against."""

    attacker: str
    kind: str
    scenario: str
    metric: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    unprotected: float | None  # the strongest attacker's figure on unprotected data; null if none was able to break it
    speakers: Count
    informed: bool = False  # whether a valid attacker that was trained on releases is among those compared
    left_out: Count = 0  # people whose released values lie far outside those of the others: nobody attacked them


class Headline(Record):
    """Main figures of one modality."""

    modality: str
    figures: tuple[HeadlineFigure, ...]  # by metric: top-1 first, then EER; empty if every attacker was invalid
    attackers: Count  # how many attackers the strongest was chosen from
    uar: Fraction | None = None
    uar_low: Fraction | None = None
    uar_high: Fraction | None = None
    uar_chance: Fraction | None = None


class Report(Record):
    """The whole of `report.json`."""

    format: Literal[2] = FORMAT_VERSION
    headline: tuple[Headline, ...] = ()
    gate: GatePart
    emotion: EmotionResults
    emotion_central: EmotionResult | None = None
    """The original's random forest, trained centrally on voice releases: a check of what federation costs."""
    emotion_public: dict[Literal["voice", "face"], PublicStart] = Field(default_factory=dict)
    """The models of public people that federated training started from; empty where it started from the seed."""
    audit: tuple[Result, ...] = ()
    inference: tuple[Result, ...] = ()  # attacks beyond identity
    utility: tuple[Result, ...] = ()  # what utility evaluators recognise in originals and in releases
    privacy: tuple[PrivacyRow, ...] = ()
    corpus: CorpusPart
    run: RunPart
