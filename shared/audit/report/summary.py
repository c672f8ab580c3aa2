"""The report's first paragraphs: what was found, in sentences a review board can quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.inference_view import inference_sentence
from moretta.shared.audit.report.report_schema import Headline, HeadlineFigure, PrivacyRow, Report

Tone = Literal["plain", "good", "bad"]

MECHANISM_UNITS = ("clip", "speaker", "site")
"""Units that stand for people or their recordings; value and frame do not."""


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One figure of the summary, with what it must be read against."""

    name: str
    value: str
    interval: str
    beside: tuple[str, ...]
    tone: Tone = "plain"


def what_was_run(report: Report) -> str:
    """One sentence on the run."""
    corpus, run = report.corpus, report.run
    rounds = max((row.round for row in run.rounds), default=0)
    sites = f"{wording.format_count(len(run.sites), 'site')}, " if run.sites else ""
    trained = f" Emotion models were trained for {wording.format_count(rounds, 'round')}." if rounds else ""
    dropped = sum(drop.count for drop in corpus.dropped)
    drops = f" {wording.format_count(dropped, 'drop')} counted by reason below." if dropped else " Nothing was dropped."
    return (
        f"{wording.format_count(corpus.clips, 'clip')} of {wording.format_count(corpus.speakers, 'speaker')} from the "
        f"corpus "
        f"“{corpus.name}” ({corpus.labels} labels), held by {sites}were anonymized where they lay; only the anonymized "
        f"form was used for training and attacked here.{trained}{drops}"
    )


def how_it_ran(report: Report) -> str:
    """Where the sites were, where the noise came from, and who was lost on the way."""
    run = report.run
    if not run.deployment:
        return "The sites were simulated on one machine, which held all original recordings."
    source = "the study's seed" if run.seeded_noise else "the operating system's generator at each site"
    sentences = [
        f"This study ran over the network with {wording.format_count(len(run.sites), 'enrolled site')}. No original "
        f"recording left its site, so nothing could be measured here on unprotected data. Privacy noise came from "
        f"{source}."
    ]
    missed = [f"{site.site} missed {', '.join(site.missed)}" for site in run.sites if site.missed]
    sentences.append(f"Not all sites took part in everything: {'; '.join(missed)}." if missed else "No site was lost.")
    return " ".join(sentences)


def findings(report: Report) -> tuple[str, ...]:
    """One sentence for each thing a reader should take away, worst news included."""
    without = report.run.deployment
    sentences = [*(identity_sentence(headline, without_originals=without) for headline in report.headline)]
    if (found := inference_sentence(report.inference)) is not None:
        sentences.append(found)
    for modality, result in report.emotion.by_modality().items():
        label = wording.modality_label(modality)
        if result is None:
            sentences.append(f"{label}, emotion: no result ({report.emotion.absent[modality].rstrip('.')}).")
            continue
        sentences.append(
            f"{label}, emotion: recognised with an unweighted average recall of "
            f"{_with_interval(result.uar, result.uar_low, result.uar_high)}, where guessing gives "
            f"{wording.percent(result.chance)}, on {wording.format_count(result.clips, 'clip')} of "
            f"{wording.format_count(result.speakers, 'speaker')} who were not trained on."
        )
    return (*sentences, *_privacy(report.privacy))


def key_figures(report: Report) -> tuple[KeyFigure, ...]:
    """The figures shown large."""
    cards: list[KeyFigure] = []
    for headline in report.headline:
        cards.extend(
            _attack_card(headline.modality, figure, deployment=report.run.deployment) for figure in headline.figures[:1]
        )
    for modality, result in report.emotion.by_modality().items():
        if result is not None:
            cards.append(
                KeyFigure(
                    f"{wording.modality_label(modality)}: emotion UAR",
                    wording.percent(result.uar),
                    wording.interval(result.uar_low, result.uar_high),
                    (f"chance {wording.percent(result.chance)}",),
                )
            )
    return tuple(cards)


def leaks(figure: HeadlineFigure) -> bool | None:
    """Whether an attack is clearly better than guessing: its whole interval is. None if that cannot be told."""
    if figure.chance is None or figure.low is None or figure.high is None:
        return None
    return figure.high < figure.chance if figure.metric == "eer" else figure.low > figure.chance


def latest(rows: Sequence[PrivacyRow]) -> tuple[PrivacyRow, ...]:
    """The last row of each site, mechanism and unit: what is spent in the end."""
    kept: dict[tuple[str, str, str], PrivacyRow] = {}
    for row in rows:
        key = (row.site, row.mechanism, row.unit)
        before = kept.get(key)
        if before is None or (before.round is not None and (row.round is None or row.round >= before.round)):
            kept[key] = row
    return tuple(kept.values())


def identity_sentence(headline: Headline, *, without_originals: bool) -> str:
    """What the strongest attacker did, against chance and unprotected data."""
    label = wording.modality_label(headline.modality)
    if not headline.figures:
        return (
            f"{label}, identity: no attacker's figure counts (every attacker is invalid or absent), so nothing is "
            f"known "
            "about re-identification. This is not evidence of privacy."
        )
    figure = headline.figures[0]
    of = f"the strongest of {headline.attackers}" if headline.attackers > 1 else "the only one"
    shown = _with_interval(figure.value, figure.low, figure.high)
    did = (
        f"names the right one of {figure.speakers} speakers in {shown} of trials"
        if figure.metric == "top1"
        else f"tells speakers apart with an equal error rate of {shown}"
    )
    against = [f"chance is {wording.figure(figure.chance, figure.metric)}"] if figure.chance is not None else []
    if figure.unprotected is None:
        against.append(
            "unprotected data never left the sites, so there is none to hold this figure against"
            if without_originals
            else "no attacker broke the unprotected data, so this figure proves little"
        )
    else:
        against.append(f"unprotected it is {wording.figure(figure.unprotected, figure.metric)}")
    verdict = {
        True: " Identity still leaks.",
        False: " That is not distinguishable from guessing with this many speakers.",
        None: "",
    }[leaks(figure)]
    return f"{label}, identity: {figure.attacker} ({figure.scenario}), {of}, {did}; {'; '.join(against)}.{verdict}"


def _attack_card(modality: str, figure: HeadlineFigure, *, deployment: bool) -> KeyFigure:
    name = f"{wording.modality_label(modality)}: strongest {wording.metric_label(figure.metric).label}"
    beside = [f"chance {wording.figure(figure.chance, figure.metric)}"] if figure.chance is not None else []
    unknown = "unknown here" if deployment else "not broken"
    known = figure.unprotected is not None
    beside.append(f"unprotected {wording.figure(figure.unprotected, figure.metric) if known else unknown}")
    beside.append(f"{figure.attacker}, {figure.scenario}")
    return KeyFigure(
        name,
        wording.figure(figure.value, figure.metric),
        wording.interval(figure.low, figure.high, figure.metric),
        tuple(beside),
        "bad" if leaks(figure) else "plain",
    )


def _privacy(rows: Sequence[PrivacyRow]) -> list[str]:
    sentences = []
    for mechanism in dict.fromkeys(row.mechanism for row in rows):
        mine = [row for row in latest(rows) if row.mechanism == mechanism]
        parts = [f"{wording.epsilon(_worst_nominal(mine, 'value'))} per value"] if _worst_nominal(mine, "value") else []
        for unit in MECHANISM_UNITS:
            of_unit = [row for row in mine if row.unit == unit]
            if of_unit:
                parts.append(f"{_guaranteed(of_unit)} per {unit}")
        if parts:
            nominal = "nominal " if _worst_nominal(mine, "value") else ""
            sentences.append(f"Privacy loss of {mechanism} (epsilon, worst site): {nominal}{'; '.join(parts)}.")
    return sentences


def _worst_nominal(rows: Sequence[PrivacyRow], unit: str) -> float | None:
    return max((row.nominal for row in rows if row.unit == unit and row.nominal is not None), default=None)


def _guaranteed(rows: Sequence[PrivacyRow]) -> str:
    if any(row.epsilon is None for row in rows):
        claimed = max((row.nominal for row in rows if row.nominal is not None), default=None)
        claim = f" ({wording.epsilon(claimed)} composed, if its assumptions held)" if claimed is not None else ""
        return f"{wording.NO_GUARANTEE}{claim}"
    worst = max(rows, key=lambda row: row.epsilon or 0.0)
    delta = f" at delta {worst.delta:g}" if worst.delta else ""
    return f"{wording.epsilon(worst.epsilon)} composed{delta}"


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    shown = wording.percent(value)
    if low is None or high is None:
        return f"{shown} (too few speakers for an interval)"
    return f"{shown} (95 % interval {wording.percent(low, sign=False)} to {wording.percent(high, sign=False)})"
