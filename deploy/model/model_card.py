"""The card of a delivered model: one record, from which `model.json` and `MODEL_CARD.md` are made.

The digest is over the whole record, and the record has a digest of every array. Compare it with the digest that the
coordinator published: if they are equal, model, figures and limits are those that were exported. Without a published
one it finds damage only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from moretta.shared.audit.report import verdict, wording
from moretta.shared.audit.report.plain_words import identity_sentence
from moretta.shared.audit.report.report_schema import (
    CorpusPart,
    Fraction,
    GatePart,
    Headline,
    PrivacyRow,
    PublicStart,
    Record,
)
from moretta.shared.audit.report.summary import of_public_people
from moretta.shared.audit.report.text_forms import escaped, table
from moretta.shared.core.terms import Modality
from moretta.shared.models.reliability import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from moretta.shared.study.sections import ModelKind

AI_ACT = (
    "Emotion recognition from biometric data is regulated: in the European Union the AI Act, Regulation (EU) "
    "2024/1689, forbids it at work and in education but for medical or safety reasons (article 5(1)(f)), and "
    "counts other uses as high-risk (annex III)."
)
"""Sentence for cards and data sheets."""


class Expected(Record):
    """The form in which the model takes one modality: what this anonymizer releases."""

    modality: Modality
    anonymizer: str
    version: str
    form: str
    options: dict[str, Any]
    model: str


class Calibration(Record):
    """A temperature for the probabilities of one output, and how far they were from the truth before and after.

    Each person's figures are by a temperature that was fitted on the other held-out people.
    """

    temperature: float | None = Field(ge=LEAST_TEMPERATURE, le=LARGEST_TEMPERATURE)
    """Null leaves the output uncalibrated, for the reason in `note`."""
    ece: Fraction | None = None
    ece_calibrated: Fraction | None = None
    clips: int = 0
    people: int = 0
    note: str = ""


class Figures(Record):
    """How well one output recognizes emotion on people who were not trained on."""

    uar: Fraction
    uar_low: Fraction | None
    uar_high: Fraction | None
    chance: Fraction
    clips: int
    people: int


class ModelCard(Record):
    """The whole of `model.json`."""

    format: Literal[1] = 1
    name: str
    study: dict[str, Any]
    """The study as sites got it: without the coordinator's files."""
    study_digest: str
    classes: tuple[str, ...]
    models: tuple[ModelKind, ...]
    expects: tuple[Expected, ...]
    arrays: dict[str, dict[str, Any]]
    """Type, shape and SHA-256 of every array of `model.safetensors`: `model/KIND/...` are weights, `public/...` what
    the anonymizers need."""
    emotion: dict[str, Figures]
    """Figures of each output: `voice`, `face`, `fused` (the vote), `learned`."""
    calibration: dict[str, Calibration]
    corpus: CorpusPart
    public_start: dict[Modality, PublicStart] = Field(default_factory=dict)
    """The models of public people that training started from."""
    dp_sgd: bool
    privacy: tuple[PrivacyRow, ...]
    """For each mechanism and unit the row of the site that lost most, after the last round."""
    headline: tuple[Headline, ...]
    """Re-identification of the releases that the model was trained on."""
    gate: GatePart
    deployment: bool
    seeded_noise: bool
    versions: dict[str, str]
    finished: str
    warnings: tuple[str, ...]
    limits: tuple[str, ...]
    digest: str = ""

    def sealed(self) -> ModelCard:
        """The card with its digest."""
        return self.model_copy(update={"digest": content_digest(json.loads(self.model_dump_json()))})


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over the content of `model.json` but for its own digest.

    It is over what stands in the file: a later version, whose records have more keys, reads models of this one.
    """
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def limits_of_use(card: ModelCard) -> Iterator[str]:
    """Sentences on the limits of the model's use, from its own figures."""
    by = " and ".join(f"{e.modality} by {e.anonymizer} ({e.form})" for e in card.expects)
    yield f"It takes releases alone: {by}. Of raw recordings its output means nothing."
    yield (
        f"It names one of the labels {', '.join(card.classes)} ({card.corpus.labels}) as this corpus has them. How "
        "somebody feels it does not measure."
    )
    people = max((f.people for f in card.emotion.values()), default=0)
    yield (
        f"Its figures come of {wording.format_count(people, 'held-out person').replace('persons', 'people')} of the "
        f"corpus “{card.corpus.name}”. Other people, languages, rooms and microphones were not measured."
    )
    if card.corpus.synthetic:
        yield "The people are synthetic: no figure here says anything about recordings of people."
    for output, figures in card.emotion.items():
        if figures.uar_low is None or figures.uar_low <= figures.chance:
            yield f"The output {output} is not distinguishable from guessing on these people."
    if card.dp_sgd:
        yield (
            "Epsilon covers the clips that were trained on. It does not cover the figures and temperatures on this "
            "card, which come of the releases of held-out people."
        )
    else:
        yield "It was trained without DP-SGD: its weights may reveal who was trained on, and what their clips are."
    for modality, start in card.public_start.items():
        yield (
            f"The {modality} model learned from {of_public_people(start)} first, without DP-SGD: its weights may "
            "reveal their clips."
        )
    if card.seeded_noise:
        yield "Privacy noise came from the study's seed: whoever knows the seed can take it off the releases."
    yield "It must not decide about a person by itself."
    yield AI_ACT


def as_markdown(card: ModelCard) -> str:
    """`MODEL_CARD.md`. Text that a report, a corpus or a study brought stands in it as text, without markup."""
    first = ["**SYNTHETIC INPUT: these figures say nothing about people.**", ""] if card.corpus.synthetic else []
    trained = "with DP-SGD" if card.dp_sgd else "**without DP-SGD**"
    where = "enrolled sites, over the network" if card.deployment else "virtual sites, on one machine"
    lines = [
        f"# Model card: {escaped(card.name)}",
        "",
        *first,
        f"Emotion recognition from {' and '.join(e.modality for e in card.expects)}, trained {trained} over {where}.",
        "",
        f"- digest `{card.digest}`",
        f"- study `{card.study_digest}`",
        f"- labels {escaped(', '.join(card.classes))}",
        f"- trained and tested on {wording.format_count(card.corpus.clips, 'clip')} of "
        f"{wording.format_count(card.corpus.speakers, 'speaker')} of the corpus “{escaped(card.corpus.name)}”",
        f"- finished {escaped(card.finished)}, Moretta {escaped(card.versions.get('moretta', 'unknown'))}",
        "",
        "## Input",
        "",
        *table(
            ("modality", "anonymizer", "version", "form", "model"),
            ((e.modality, e.anonymizer, e.version, e.form, e.model) for e in card.expects),
        ),
        "",
        "`moretta predict` makes this form of recordings, on the machine where it runs.",
        "",
        "## Emotion recognition",
        "",
        "On people who were not trained on; intervals of 95 % over people.",
        "",
        *table(
            ("output", "UAR", "guessing", "clips", "people"),
            (
                (
                    output,
                    f"{wording.percent(f.uar)} {wording.interval(f.uar_low, f.uar_high)}".strip(),
                    wording.percent(f.chance),
                    f.clips,
                    f.people,
                )
                for output, f in card.emotion.items()
            ),
        ),
        "",
        "## Calibration of its probabilities",
        "",
        *table(
            ("output", "temperature", "ECE before", "ECE after", "note"),
            (
                (
                    output,
                    "uncalibrated" if c.temperature is None else f"{c.temperature:.3f}",
                    wording.percent(c.ece),
                    wording.percent(c.ece_calibrated),
                    c.note,
                )
                for output, c in card.calibration.items()
            ),
        ),
        "",
        "## Privacy loss",
        "",
        *table(
            ("mechanism", "unit", "epsilon", "delta", "note"),
            ((p.mechanism, p.unit, wording.epsilon(p.epsilon), f"{p.delta:g}", p.note) for p in card.privacy),
        ),
        "",
        "## Re-identification in the releases",
        "",
        *(f"- {escaped(identity_sentence(part, without_originals=card.deployment))}" for part in card.headline),
        *([] if card.headline else ["- The releases were not attacked: nothing is known of what they leak."]),
        *(f"- {escaped(line)}" for line in verdict.lines(card.gate)),
        "",
        "## Limits of use",
        "",
        *(f"- {escaped(limit)}" for limit in card.limits),
        *(["", "## Warnings of the run", "", *(f"- {escaped(w)}" for w in card.warnings)] if card.warnings else []),
    ]
    return "\n".join(lines) + "\n"
