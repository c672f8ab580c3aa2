"""A privacy card: one small JSON file with what is guaranteed, what attacks found, and what was not tested.

It goes with a data set or a model, and has nothing that `report.json` does not have. Its schema is published, so that
registers of data and of models can read it.
"""

from __future__ import annotations

import json
import math
from typing import Literal

from pydantic import Field

from moretta.shared.audit.report import plain_words, tables, verdict
from moretta.shared.audit.report.report_schema import (
    Count,
    Criterion,
    Fraction,
    Headline,
    PrivacyRow,
    Record,
    Report,
    State,
)
from moretta.shared.audit.result import strongest_of_each
from moretta.shared.core.terms import MODALITIES

CARD_FORMAT: Literal[1] = 1
CARD_SCHEMA_JSON = "privacy-card.schema.json"


class Guarantee(Record):
    """Guarantee of differential privacy for one unit of one mechanism, at the site where it is weakest."""

    mechanism: str
    unit: Literal["value", "frame", "clip", "speaker", "site"]
    epsilon: float | None = Field(ge=0)  # null is no finite guarantee
    delta: float = Field(ge=0, lt=1)
    nominal: float | None = Field(default=None, ge=0)  # what the mechanism's parameters alone claim
    meaning: str  # epsilon in a word


class Inferred(Record):
    """The strongest valid attack on something other than identity."""

    attack: str  # such as `attribute`, `inversion`, `membership`
    target: str  # such as `sex`, `age_group`
    modality: str
    attacker: str
    scenario: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None


class PrivacyCard(Record):
    """The whole card."""

    format: Literal[1] = CARD_FORMAT
    study: str
    corpus: str
    synthetic: bool  # made by a program: the figures say nothing about people
    deployment: bool  # false: the sites were simulated on one machine
    seeded_noise: bool  # with the seed the noise can be subtracted, and no guarantee holds
    people: Count
    clips: Count
    anonymizers: dict[str, str | None]  # by modality; null where the study has it disabled
    verdict: State
    meaning: str  # of the verdict, as a sentence
    criteria: tuple[Criterion, ...]
    guarantees: tuple[Guarantee, ...]
    re_identification: tuple[Headline, ...]  # the strongest attackers, by modality
    inferred: tuple[Inferred, ...]
    emotion_uar: dict[str, Fraction]  # by output of the federated model, on people who were held out
    untested: tuple[str, ...]
    versions: dict[str, str]
    finished: str


def privacy_card(report: Report) -> PrivacyCard:
    """The card of a study, from its report alone."""
    study = report.run.study
    return PrivacyCard(
        study=str(study.get("name", report.corpus.name)),
        corpus=report.corpus.name,
        synthetic=report.corpus.synthetic,
        deployment=report.run.deployment,
        seeded_noise=report.run.seeded_noise,
        people=report.corpus.speakers,
        clips=report.corpus.clips,
        anonymizers={modality: _anonymizer(study.get(modality)) for modality in MODALITIES},
        verdict=report.gate.verdict,
        meaning=verdict.meaning(report.gate),
        criteria=report.gate.criteria,
        guarantees=_guarantees(report),
        re_identification=report.headline,
        inferred=_inferred(report),
        emotion_uar={name: found.uar for name, found in report.emotion.by_modality().items() if found is not None},
        untested=tuple(plain_words.untested(report)),
        versions=report.run.versions,
        finished=report.run.finished,
    )


def card_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a card, made from these records."""
    schema = PrivacyCard.model_json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Moretta privacy card, {CARD_FORMAT}"}
    return json.dumps(head | {key: value for key, value in schema.items() if key != "title"}, indent=1) + "\n"


def _anonymizer(section: object) -> str | None:
    if not isinstance(section, dict) or section.get("enabled") is False:
        return None
    name = section.get("anonymizer")
    return None if name is None else str(name)


def _guarantees(report: Report) -> tuple[Guarantee, ...]:
    """Row with the largest epsilon of all sites, for each mechanism and unit; no guarantee counts as the largest."""
    worst: dict[tuple[str, str], PrivacyRow] = {}
    for row in sorted(tables.latest(report.privacy), key=lambda row: math.inf if row.epsilon is None else row.epsilon):
        worst[row.mechanism, row.unit] = row
    return tuple(
        Guarantee(
            mechanism=row.mechanism,
            unit=row.unit,
            epsilon=row.epsilon,
            delta=row.delta,
            nominal=row.nominal,
            meaning=plain_words.epsilon_word(row.epsilon),
        )
        for _, row in sorted(worst.items())
    )


def _inferred(report: Report) -> tuple[Inferred, ...]:
    """Strongest result for each attack, modality, target and metric; invalid ones are left out."""
    names = Inferred.model_fields
    return tuple(Inferred(**{name: getattr(r, name) for name in names}) for r in strongest_of_each(report.inference))
