"""`choice.html`: every candidate of `moretta choose` on one plot and in one table, with the rule and what it chose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moretta.shared.audit.report import plotting as p
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.charts import DASHED, draw_intervals, leak_axes
from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.plotting import Chart, ReferenceLine, styled

if TYPE_CHECKING:
    from moretta.deploy.sweep.choosing import Candidate, Choice

CHOICE_PAGE = "choice.html"


def render_choice(
    choice: Choice,
    *,
    corpus: str,
    synthetic: bool,
    caution: str,
    warnings: Sequence[str],
    command: str,
    seed: int,
    finished: str,
) -> str:
    """The page; `caution` is what a reader must know of any choice among several."""
    chart = draw_candidates(choice)
    return render_page(
        "choice.html",
        kind="choice of an anonymizer",
        name=f"{wording.modality_label(choice.candidates[0].modality)} of {corpus}" if choice.candidates else corpus,
        synthetic=synthetic,
        c=choice,
        numbers={candidate.name: number for number, candidate in enumerate(choice.candidates, 1)},
        state={candidate.name: state_of(candidate, choice) for candidate in choice.candidates},
        plot=None if chart is None else chart.inline("candidates"),
        caution=caution,
        warnings=warnings,
        command=command,
        seed=seed,
        finished=finished,
    )


def state_of(candidate: Candidate, choice: Choice) -> str:
    """`chosen`, or why another candidate was."""
    if candidate.excluded:
        return candidate.excluded
    if candidate == choice.chosen:
        return "chosen"
    return "above the cap" if (candidate.top1_upper or 0.0) > choice.max_top1 else "keeps the cap, with less emotion"


@styled()
def draw_candidates(choice: Choice) -> Chart | None:
    """Emotion UAR across, top-1 up, one numbered mark a candidate; None where none has both figures.

    Candidates that may be chosen lie under the line of the cap with their whole interval. The chosen mark is filled.
    """
    known = [(n, c) for n, c in enumerate(choice.candidates, 1) if c.uar is not None and c.top1 is not None]
    if not known:
        return None
    chart = Chart("Candidates: emotion recognition against re-identification", 720, 430)
    axes = chart.figure.subplots()
    values = [v for _, c in known for v in (c.uar, c.uar_low, c.uar_high, c.uar_chance) if v is not None]
    low = math.floor(10 * min(values)) / 10
    span = max(0.0, low), min(1.0, max(math.ceil(10 * max(values)) / 10, low + 0.2))
    leak_axes(axes, "top1", span, across="emotion UAR of an evaluator trained on releases")
    for chance in {round(c.uar_chance, 3) for _, c in known if c.uar_chance is not None}:
        axes.axvline(chance, **DASHED)
    chances = sorted({round(c.top1_chance, 3) for _, c in known if c.top1_chance is not None})
    cap = ReferenceLine(choice.max_top1, f"cap {wording.percent(choice.max_top1)}", p.ALARM, (10, 5))
    p.draw_references(axes, [cap, *(ReferenceLine(value, f"chance {wording.percent(value)}") for value in chances)])
    for number, c in known:
        x, y = c.uar or 0.0, c.top1 or 0.0
        tone = p.SOFT if c.excluded else p.TONES[0]
        draw_intervals(axes, (x, c.uar_low, c.uar_high), (y, y, c.top1_upper), color=tone, alpha=0.35)
        face = tone if c == choice.chosen else p.PAPER
        (mark,) = axes.plot([x], [y], "o", color=tone, markersize=9, mfc=face, clip_on=False, zorder=4)
        figures = f"emotion UAR {wording.percent(x)}, top-1 {wording.percent(y)} by {c.top1_by}"
        chart.tip(mark, f"{number}, {c.name}: {figures}; {state_of(c, choice)}")
        axes.annotate(
            str(number), (x, y), (7, 5), textcoords="offset points", color=tone, fontsize=p.SMALL, fontweight="bold",
            annotation_clip=False, zorder=5,
        )  # fmt: skip
    return chart
