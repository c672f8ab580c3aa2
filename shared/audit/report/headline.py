"""The headline: the strongest attacker, never the average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from moretta.shared.audit.report.report_schema import EmotionResults, Headline, HeadlineFigure, Result

UNPROTECTED = "unprotected"
CONSTANT = "constant"
ALL = "all"
"""The subset of all speakers."""
ANCHORS = frozenset({UNPROTECTED, CONSTANT})
HEADLINE_METRICS: dict[str, Callable[[Iterable[float]], float]] = {"top1": max, "eer": min}
"""Metric -> how the strongest of several is found: naming speakers rises with leakage, errors fall."""


def whole(rows: Iterable[Result]) -> list[Result]:
    """Rows that may stand for their attacker: not invalid, over all speakers, one clip per trial."""
    return [row for row in rows if row.value is not None and not row.invalid and row.subset == ALL and row.pooled == 1]


def strongest(rows: Iterable[Result], metric: str) -> Result | None:
    """The row in which `metric` (`top1` or `eer`) shows the most leakage; None if no row has it."""
    candidates = [row for row in rows if row.metric == metric and row.value is not None]
    if not candidates:
        return None
    best = HEADLINE_METRICS[metric](row.value for row in candidates if row.value is not None)
    return next(row for row in candidates if row.value == best)


def headlines(rows: Sequence[Result], emotion: EmotionResults | None) -> tuple[Headline, ...]:
    """One headline for each modality that was attacked, in order of first appearance.

    `emotion` is what the study's own models reached; None where no study ran.
    """
    return tuple(_headline(modality, rows, emotion) for modality in dict.fromkeys(row.modality for row in rows))


def _headline(modality: str, rows: Sequence[Result], emotion: EmotionResults | None) -> Headline:
    usable = whole(row for row in rows if row.modality == modality)
    released = [row for row in usable if row.scenario not in ANCHORS]
    unprotected = [row for row in usable if row.scenario == UNPROTECTED]
    figures = []
    for metric in HEADLINE_METRICS:
        found, anchor = strongest(released, metric), strongest(unprotected, metric)
        if found is not None and found.value is not None:
            figures.append(
                HeadlineFigure(
                    attacker=found.attacker,
                    kind=found.kind,
                    scenario=found.scenario,
                    metric=metric,
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    chance=found.chance,
                    unprotected=anchor.value if anchor else None,
                    speakers=found.speakers,
                )
            )
    results = {} if emotion is None else {str(name): found for name, found in emotion.by_modality().items()}
    result = results.get(modality)
    return Headline(
        modality=modality,
        figures=tuple(figures),
        attackers=len({row.attacker for row in released}),
        uar=result.uar if result else None,
        uar_low=result.uar_low if result else None,
        uar_high=result.uar_high if result else None,
        uar_chance=result.chance if result else None,
    )
