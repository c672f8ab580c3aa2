"""Summary of a report: headline, key figures, and sentences that a review board can quote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moretta.shared.audit.metrics import leaks_when_low
from moretta.shared.audit.report import plain_words, wording
from moretta.shared.audit.report.report_schema import (
    EmotionResults,
    EmotionTable,
    Headline,
    HeadlineFigure,
    Modality,
    PublicStart,
    Report,
)
from moretta.shared.audit.report.tables import inference_sentence
from moretta.shared.audit.result import Result, of_emotion
from moretta.shared.core.terms import MODALITIES

UNPROTECTED = "unprotected"
SEMI_INFORMED = "semi-informed"
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
                informed = any(r.metric == metric and r.scenario == SEMI_INFORMED for r in released)
                unprotected = anchor.value if anchor else None
                figures.append(HeadlineFigure(**same, unprotected=unprotected, informed=informed))
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
    if report.emotion_public:
        starts = " and ".join(f"{of_public_people(start)} ({m})" for m, start in report.emotion_public.items())
        trained += f" They started from models of {starts}, whom no epsilon counts."
    dropped = sum(drop.count for drop in corpus.dropped)
    drops = f" {wording.format_count(dropped, 'drop')} counted by reason below." if dropped else " Nothing was dropped."
    return (
        f"{wording.format_count(corpus.clips, 'clip')} of {wording.format_count(corpus.speakers, 'speaker')} from the "
        f"corpus “{corpus.name}” ({corpus.labels} labels), held by {sites}were anonymized where they lay; only the "
        f"anonymized form was used for training and attacked here.{trained}{drops}"
    )


def of_public_people(start: PublicStart) -> str:
    """Clips and people that a model was trained on before its first round."""
    return f"{wording.format_count(start.clips, 'clip')} of {start.people} public people"


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
    """One plain sentence for each thing a reader should take away, worst news included."""
    sentences = identity_sentences(report.headline, report.audit, without_originals=report.run.deployment)
    sentences.append(plain_words.model_sentence(report))
    others = [r for r in report.inference if r.attack != "membership"]  # the sentence before is about that
    if (found := inference_sentence(others)) is not None:
        sentences.append(found)
    results: dict[Modality, EmotionTable] = {
        m: table for m, table in report.emotion.by_modality().items() if table is not None
    }
    sentences += [plain_words.emotion_sentence(results)] if results else []
    for modality, why in report.emotion.absent.items():
        sentences.append(f"{wording.modality_label(modality)}, emotion: no result ({why.rstrip('.')}).")
    return tuple(sentences)


def identity_sentences(
    parts: Sequence[Headline], results: Sequence[Result], *, without_originals: bool = False
) -> list[str]:
    """One sentence for each modality, and where there are two, one for an attacker who has both."""
    found = [plain_words.identity_sentence(part, results, without_originals=without_originals) for part in parts]
    if {part.modality for part in parts} == set(MODALITIES):
        found.append(plain_words.together_sentence(parts))
    return found


def utility_sentences(utility: Sequence[Result]) -> list[str]:
    """The best utility evaluator on releases of each modality, and what the same one recognises in originals."""
    sentences = []
    for modality in dict.fromkeys(row.modality for row in utility):
        mine = [row for row in of_emotion(utility) if row.modality == modality]
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
