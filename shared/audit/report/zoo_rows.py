"""Rows of `zoo.json` and `zoo.csv`: one for each system, setting and half of the people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import model_validator

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Count, Record, Seconds
from moretta.shared.core.printable import to_csv
from moretta.shared.core.terms import Modality

MEAN = "mean"
"""In place of the name of a half: the mean of both."""
COLUMNS: Mapping[str, tuple[str, str]] = {
    "uar": ("emotion UAR", "best evaluator trained on releases of other people; intended labels"),
    "uar_vote": ("emotion UAR, votes", "the same by the crowd's votes"),
    "wer": ("word error rate", "recogniser that knows the sentences, on releases; guessing stands as chance"),
    "sentence_right": ("sentence, by its sound", "share of releases of which that recogniser has the sentence right"),
    "sentence_read": ("sentence, by a classifier", "trained on releases of other people; reads codes too"),
    "landmark_error": (
        "landmark error",
        "to the original, of the distance of the eyes; another person's stands as chance",
    ),
    "landmark_movement": ("landmark movement", "correlation with the original's; another person's stands as chance"),
    "ssim": ("SSIM", "structural similarity to the original; another person's stands as chance"),
    "identity_cosine": (
        "identity cosine",
        "to the original, by SFace as published; two people's originals stand as chance",
    ),
    "expression_agreement": ("same expression", "face-api's network sees the same one in original and release"),
    "top1_ignorant": ("top-1, ignorant", "strongest attacker, one clip"),
    "top1_lazy": ("top-1, lazy-informed", "strongest attacker, one clip"),
    "top1_semi": ("top-1, semi-informed", "strongest attacker, one clip"),
    "top1_3": ("top-1, 3 clips", "strongest attacker of any scenario, 3 clips pooled"),
    "top1_10": ("top-1, 10 clips", "10 clips pooled"),
    "top1_30": ("top-1, 30 clips", "30 clips pooled"),
    "eer_ignorant": ("EER, ignorant", "strongest attacker"),
    "eer_lazy": ("EER, lazy-informed", "strongest attacker"),
    "eer_semi": ("EER, semi-informed", "strongest attacker"),
    "speaker_able": ("speaker, adversary without reversal", "public people, by the statement"),
    "speaker_in_loop": ("speaker, in the loop", "the adversary that was trained against, by the statement"),
    "sex_able": ("sex, adversary without reversal", "public people who were held out, by the statement"),
    "sex_in_loop": ("sex, in the loop", "the adversary that was trained against, by the statement"),
    "sex_paper": ("sex, attacker of the paper", "a model of originals, by the statement"),
    "sex_fresh_linear": ("sex, fresh linear", "trained on outputs for public people, by the statement"),
    "sex_fresh_forest": ("sex, fresh forest", "trained on outputs for public people, by the statement"),
    "sex": ("sex, strongest of the audit", "released people, attackers trained on releases of others"),
    "sex_twelve": ("sex, best of twelve networks", "released people; chosen on training people"),
    "membership": ("membership, AUC", "of the emotion model that was trained on releases"),
    "inversion": ("inversion, EER", "recognisers of originals on decoded releases"),
    "epsilon_clip": ("epsilon, clip", "of the release, by the sites' ledgers"),
    "epsilon_speaker": ("epsilon, speaker", "of the release, by the sites' ledgers"),
    "training_seconds": ("training, s", "of public arrays and at sites, one thread"),
    "times_real_time": (
        "times real time",
        "seconds of sound or pictures for a second of the release stage, one thread",
    ),
}
"""Heading and what the figure is. Fractions are balanced accuracy, where nothing else is said."""
PLAIN = frozenset({
    *("membership", "epsilon_clip", "epsilon_speaker", "training_seconds", "times_real_time"),
    *("landmark_error", "landmark_movement", "ssim", "identity_cosine"),
})  # fmt: skip
"""Columns that are not shown as percent."""
_OF_ONE: Mapping[Modality, frozenset[str]] = {
    "voice": frozenset({"wer", "sentence_right", "sentence_read"}),
    "face": frozenset({"landmark_error", "landmark_movement", "ssim", "identity_cosine", "expression_agreement"}),
}


def columns_of(modality: Modality) -> list[str]:
    """The columns that a row of a modality has, in the order of the table."""
    others = set[str]().union(*(names for other, names in _OF_ONE.items() if other != modality))
    return [name for name in COLUMNS if name not in others]


class ZooFigure(Record):
    """One cell of the table: a value, or the reason why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of a 95 % interval over speakers; of a mean, the widest of both."""
    chance: float | None = None
    by: str = ""
    """Attacker or evaluator."""
    why: str = ""

    @model_validator(mode="after")
    def _is_never_blank(self) -> ZooFigure:
        if self.value is None and not self.why:
            raise ValueError("a figure needs a value or a reason")
        return self


class ZooRow(Record):
    """One system in one setting, on one half of the people."""

    system: str
    setting: str
    half: str = ""
    """Which people were released; empty without a split, `mean` for both."""
    speakers: Count = 0
    clips: Count = 0
    figures: dict[str, ZooFigure]
    """Figures by the names of `COLUMNS`, all of its modality."""
    faults: tuple[str, ...] = ()
    """Reasons to believe no figure of its adversary, by the statement."""
    failed: str = ""


class ZooReport(Record):
    """The whole of `zoo.json`."""

    format: int = 1
    name: str
    synthetic: bool
    rows: tuple[ZooRow, ...]
    people: tuple[str, ...]
    """Which people were public and which released, by number."""
    command: str
    versions: dict[str, str]
    finished: str  # UTC, ISO 8601
    seconds: Seconds
    warnings: tuple[str, ...] = ()


def mean_row(halves: Sequence[ZooRow]) -> ZooRow:
    """The mean of the halves; without a figure where one of them has none."""
    return halves[0].model_copy(
        update={
            "half": MEAN,
            "speakers": sum(row.speakers for row in halves),
            "clips": sum(row.clips for row in halves),
            "figures": {name: _mean([row.figures[name] for row in halves]) for name in halves[0].figures},
            "faults": tuple(dict.fromkeys(fault for row in halves for fault in row.faults)),
            "failed": "; ".join(dict.fromkeys(row.failed for row in halves if row.failed)),
        }
    )


def _mean(figures: Sequence[ZooFigure]) -> ZooFigure:
    values = [figure.value for figure in figures if figure.value is not None]
    if len(values) < len(figures):
        reasons = dict.fromkeys(figure.why for figure in figures if figure.value is None)
        return ZooFigure(why="; ".join(reasons))
    lows = [figure.low for figure in figures if figure.low is not None]
    highs = [figure.high for figure in figures if figure.high is not None]
    chances = [figure.chance for figure in figures if figure.chance is not None]
    both = len(lows) == len(highs) == len(figures)
    return ZooFigure(
        value=float(np.mean(values)),
        low=min(lows) if both else None,
        high=max(highs) if both else None,
        chance=float(np.mean(chances)) if len(chances) == len(figures) else None,
        by=", ".join(dict.fromkeys(figure.by for figure in figures if figure.by)),
    )


def figure_text(name: str, figure: ZooFigure) -> str:
    """The value as a table shows it; without the interval."""
    if figure.value is None:
        return "–"
    if name.startswith("epsilon"):
        return wording.epsilon(figure.value)
    if name == "training_seconds":
        return f"{figure.value:.1f}"
    if name == "times_real_time":
        return f"{figure.value:.0f}" if figure.value >= 10 else f"{figure.value:.2f}"
    return wording.figure(figure.value, "auc" if name in PLAIN else "uar", sign=False)


def as_csv(rows: Sequence[ZooRow]) -> str:
    """One line for each row; each figure has five columns. Empty is null."""
    parts = list(ZooFigure.model_fields)
    columns = rows[0].figures if rows else COLUMNS
    names = {(column, part): column if part == "value" else f"{column}_{part}" for column in columns for part in parts}
    plain = ["system", "setting", "half", "speakers", "clips", "faults", "failed"]
    lines = []
    for row in rows:
        content = {name: getattr(row, name) for name in plain} | {"faults": "; ".join(row.faults)}
        lines.append([*content.values(), *(getattr(row.figures[column], part) for column, part in names)])
    return to_csv([*plain, *names.values()], lines)
