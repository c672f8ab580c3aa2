"""What a reader should take away: headline, key figures, and sentences that a review board can quote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from moretta.shared.audit.metrics import leaks_when_low
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import EmotionResults, Headline, HeadlineFigure, Report
from moretta.shared.audit.report.tables import inference_sentence, privacy_sentences
from moretta.shared.audit.result import Result

UNPROTECTED = "unprotected"
HEADLINE_METRICS = ("top1", "eer")


def strongest(results: Iterable[Result], metric: str) -> Result | None:
    """The result in which `metric` shows the most leakage, the first of equals; None if none has it."""
    choose = min if leaks_when_low(metric) else max
    return choose(
        (r for r in results if r.metric == metric and r.value is not None), key=lambda r: r.value or 0.0, default=None
    )


def headlines(results: Sequence[Result], emotion: EmotionResults | None) -> tuple[Headline, ...]:
    """The strongest attacker of each modality that was attacked, never the average, in order of first appearance.

    `emotion` is what the study's own models reached; None where no study ran.
    """
    tables = {} if emotion is None else {str(name): table for name, table in emotion.by_modality().items()}
    found = []
    for modality in dict.fromkeys(r.modality for r in results):
        usable = [r for r in results if r.modality == modality and r.is_whole]
        released = [r for r in usable if not r.is_anchor]
        figures = []
        for metric in HEADLINE_METRICS:
            anchor = strongest((r for r in usable if r.scenario == UNPROTECTED), metric)
            if (best := strongest(released, metric)) is not None:
                same = best.model_dump(include=set(HeadlineFigure.model_fields))
                figures.append(HeadlineFigure(**same, unprotected=anchor.value if anchor else None))
        part = Headline(modality=modality, figures=tuple(figures), attackers=len({r.attacker for r in released}))
        if (table := tables.get(modality)) is not None:
            uar = {"uar": table.uar, "uar_low": table.uar_low, "uar_high": table.uar_high, "uar_chance": table.chance}
            part = part.model_copy(update=uar)
        found.append(part)
    return tuple(found)


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
        f"corpus “{corpus.name}” ({corpus.labels} labels), held by {sites}were anonymized where they lay; only the "
        f"anonymized form was used for training and attacked here.{trained}{drops}"
    )


def how_it_ran(report: Report) -> str:
    """Where the sites were, where the noise came from, and which sites were lost."""
    run = report.run
    if not run.deployment:
        return "The sites were simulated on one machine, which held all original recordings."
    source = "the study's seed" if run.seeded_noise else "the operating system's generator at each site"
    missed = [f"{site.site} missed {', '.join(site.missed)}" for site in run.sites if site.missed]
    lost = f"Not all sites took part in everything: {'; '.join(missed)}." if missed else "No site was lost."
    return (
        f"This study ran over the network with {wording.format_count(len(run.sites), 'enrolled site')}. No original "
        f"recording left its site, so nothing could be measured here on unprotected data. Privacy noise came from "
        f"{source}. {lost}"
    )


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
    return (*sentences, *privacy_sentences(report.privacy))


def utility_sentences(utility: Sequence[Result]) -> list[str]:
    """The best utility evaluator on releases of each modality, and what the same one recognises in originals."""
    sentences = []
    for modality in dict.fromkeys(row.modality for row in utility):
        mine = [row for row in utility if row.modality == modality]
        best = strongest((row for row in mine if not row.is_anchor), "uar")
        if best is None:
            continue
        before = [r.value for r in mine if r.is_anchor and r.attacker == best.attacker and r.value is not None]
        on_originals = f", {wording.percent(before[0])} on originals" if before else ""
        sentences.append(
            f"{wording.modality_label(modality)}, emotion: {best.attacker} recognises it in releases with an "
            f"unweighted average recall of {wording.percent(best.value)}{on_originals}, where guessing gives "
            f"{wording.percent(best.chance)}."
        )
    return sentences


def key_figures(report: Report) -> list[dict[str, Any]]:
    """The figures shown large, each with what it must be read against."""
    unknown = "unknown here" if report.run.deployment else "not broken"
    cards: list[dict[str, Any]] = []
    for headline in report.headline:
        label = wording.modality_label(headline.modality)
        for f in headline.figures[:1]:
            chance = [f"chance {wording.figure(f.chance, f.metric)}"] if f.chance is not None else []
            unprotected = unknown if f.unprotected is None else wording.figure(f.unprotected, f.metric)
            card = {
                "name": f"{label}: strongest {wording.metric_label(f.metric).label}",
                "value": wording.figure(f.value, f.metric),
                "interval": wording.interval(f.low, f.high, f.metric),
                "context": [*chance, f"unprotected {unprotected}", f"{f.attacker}, {f.scenario}"],
                "tone": "bad" if leaks(f) else "plain",
            }
            cards.append(card)
    for modality, result in report.emotion.by_modality().items():
        if result is not None:
            card = {
                "name": f"{wording.modality_label(modality)}: emotion UAR",
                "value": wording.percent(result.uar),
                "interval": wording.interval(result.uar_low, result.uar_high),
                "context": [f"chance {wording.percent(result.chance)}"],
                "tone": "plain",
            }
            cards.append(card)
    return cards


def leaks(figure: HeadlineFigure) -> bool | None:
    """Whether an attack is clearly better than guessing: its whole interval is. None if that is unknown."""
    if figure.chance is None or figure.low is None or figure.high is None:
        return None
    return figure.high < figure.chance if leaks_when_low(figure.metric) else figure.low > figure.chance


def identity_sentence(headline: Headline, *, without_originals: bool) -> str:
    """What the strongest attacker did, against chance and unprotected data."""
    label = wording.modality_label(headline.modality)
    if not headline.figures:
        return (
            f"{label}, identity: no attacker's figure counts (every attacker is invalid or absent), so nothing is "
            "known about re-identification. This is not evidence of privacy."
        )
    figure = headline.figures[0]
    of = f"the strongest of {headline.attackers}" if headline.attackers > 1 else "the only one"
    shown = _with_interval(figure.value, figure.low, figure.high)
    if figure.metric == "top1":
        did = f"re-identifies the right one of {figure.speakers} speakers in {shown} of trials"
    else:
        did = f"distinguishes speakers with an equal error rate of {shown}"
    against = [f"chance is {wording.figure(figure.chance, figure.metric)}"] if figure.chance is not None else []
    if figure.unprotected is not None:
        against.append(f"unprotected it is {wording.figure(figure.unprotected, figure.metric)}")
    elif without_originals:
        against.append("unprotected data never left the sites, so there is none to hold this figure against")
    else:
        against.append("no attacker broke the unprotected data, so this figure proves little")
    guessing = " That is not distinguishable from guessing with this many speakers."
    verdict = {True: " Identity still leaks.", False: guessing, None: ""}[leaks(figure)]
    return f"{label}, identity: {figure.attacker} ({figure.scenario}), {of}, {did}; {'; '.join(against)}.{verdict}"


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    shown = wording.percent(value)
    if low is None or high is None:
        return f"{shown} (too few speakers for an interval)"
    return f"{shown} (95 % interval {wording.percent(low, sign=False)} to {wording.percent(high, sign=False)})"
