"""The page of the demonstration: the same people under several pairs of anonymizers, in figures, sound and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.lines import Line2D

from moretta.shared.audit.report import plotting as p
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.charts import DASHED, WIDTH
from moretta.shared.audit.report.page import render_page
from moretta.shared.audit.report.plotting import Chart, styled
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.core.reproducibility import versions
from moretta.shared.study.sections import GateSection

_ROW_PIXELS, _MARGIN_PIXELS = 46, 96
_APART = 0.17  # of both studies' marks in one row of a chart, whose rows lie 1 apart
_TOGETHER = "fused"
State = tuple[str, str]
_UNKNOWN: State = ("too few people to tell", "inconclusive")
_AT_CHANCE = "not distinguishable from guessing"


@dataclass(frozen=True, slots=True)
class ShownForm:
    """A clip as it is, or as one study released it. Sound and pictures are `data:` addresses."""

    sound: str = ""
    numbers: tuple[float, ...] = ()
    """Values of a code that was released in place of sound."""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownClip:
    """One clip of one person, before and after."""

    person: str
    before: ShownForm
    after: tuple[ShownForm, ...]
    """Releases in the order of the studies."""


@dataclass(frozen=True, slots=True)
class ComparedStudy:
    """One of the studies, with the folder of its report beside the page."""

    title: str
    folder: str
    report: Report

    @property
    def anonymizers(self) -> Mapping[str, str]:
        """Name of the anonymizer of each modality."""
        study = self.report.run.study
        return {m: study[m]["anonymizer"] for m in ("voice", "face") if study[m]["enabled"]}


@dataclass(frozen=True, slots=True)
class Figure:
    """A share of clips with its 95 % interval, and what guessing gives."""

    value: float
    low: float | None
    high: float | None
    chance: float
    by: str

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval is."""
        return self.low is not None and self.low > self.chance

    def to_json(self) -> dict[str, float | str | None]:
        """The record as JSON values, for scripts."""
        return asdict(self)


def emotion_figures(report: Report) -> dict[str, Figure]:
    """UAR of the study's own models on clips of held-out people, by voice, face and both."""
    tables = report.emotion.by_modality().items()
    return {m: Figure(t.uar, t.uar_low, t.uar_high, t.chance, t.model) for m, t in tables if t is not None}


def identity_figures(report: Report) -> dict[str, Figure]:
    """How often the strongest attacker of each modality re-identifies the person of one clip."""
    found = {h.modality: f for h in report.headline for f in h.figures if f.metric == "top1"}
    return {
        m: Figure(f.value, f.low, f.high, f.chance, f"{f.attacker}, {f.scenario}")
        for m, f in found.items()
        if f.chance is not None
    }


def emotion_state(figure: Figure) -> State:
    """Words on how far emotion is above chance, and the class of the page for that."""
    if figure.low is None:
        return _UNKNOWN
    if not figure.above_chance:
        return _AT_CHANCE, "fails"
    return f"{figure.value / figure.chance:.1f} times guessing", "passes"


def identity_state(figure: Figure) -> State:
    """Words and class for re-identification. As in a report's verdict, an interval beyond the default limit fails."""
    limit = GateSection().top1_limit(figure.chance) or 0.0
    if figure.low is None or figure.high is None:
        return _UNKNOWN
    if not figure.above_chance:
        return _AT_CHANCE, "passes" if figure.high <= limit else "inconclusive"
    return ("little above guessing", "inconclusive") if figure.value <= limit else ("people are re-identified", "fails")


def figure_lines(study: ComparedStudy) -> list[str]:
    """One study as text: its figures as the page has them."""
    emotion, identity = emotion_figures(study.report), identity_figures(study.report)
    found = {"emotion": (emotion[_TOGETHER], emotion_state)} if _TOGETHER in emotion else {}
    found |= {f"person, by {m}": (figure, identity_state) for m, figure in identity.items()}
    return [
        f"{study.title} ({', '.join(study.anonymizers.values())})",
        *(
            f"  {what}: {wording.percent(f.value)} {wording.interval(f.low, f.high)}, guessing "
            f"{wording.percent(f.chance)}: {state(f)[0]}"
            for what, (f, state) in found.items()
        ),
    ]


@styled()
def comparison(title: str, across: str, figures: Sequence[tuple[str, Mapping[str, Figure]]]) -> Chart:
    """Figures by modality down, of each study in its tone, with intervals; the dashed line is guessing."""
    modalities = list(dict.fromkeys(m for _, of in figures for m in of))
    chart = Chart(title, WIDTH, _MARGIN_PIXELS + _ROW_PIXELS * len(modalities))
    axes = chart.figure.subplots()
    axes.set(xlim=(0, 1), ylim=(len(modalities) - 0.5, -0.5), xlabel=across, title=title)
    axes.set_yticks(range(len(modalities)), [wording.modality_label(m).replace(", fused", "") for m in modalities])
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0)
    p.percent_axis(axes.xaxis, 0.0, 1.0, 0.2)
    tones, handles = (p.TONES[1], p.TONES[0], *p.TONES[2:]), []
    for index, (name, of) in enumerate(figures):
        style: dict[str, Any] = {"color": tones[index], "marker": p.MARKERS[index], "markersize": 8, "linestyle": ""}
        handles.append(Line2D([], [], label=name, **style))
        for place, modality in enumerate(modalities):
            if (f := of.get(modality)) is None:
                continue
            y = place + _APART * (2 * index + 1 - len(figures))
            if f.low is not None and f.high is not None:
                axes.hlines(y, f.low, f.high, color=tones[index], linewidth=2)
            (mark,) = axes.plot([f.value], [y], clip_on=False, zorder=3, **style)
            interval = wording.interval(f.low, f.high)
            chart.tip(mark, f"{name}, {wording.modality_label(modality)}: {wording.percent(f.value)} {interval}")
    for chance in {f.chance for _, of in figures for f in of.values()}:
        handles.append(axes.axvline(chance, label=f"guessing, {wording.percent(chance)}", **DASHED))
    chart.figure.legend(handles=handles, loc="outside lower left", ncols=2, columnspacing=1, handletextpad=0.5)
    return chart


def render_demo(studies: Sequence[ComparedStudy], clips: Sequence[ShownClip], *, command: str) -> str:
    """One HTML file that loads nothing; links lead to the full reports beside it."""
    emotion = [emotion_figures(study.report) for study in studies]
    identity = [identity_figures(study.report) for study in studies]
    first = studies[0].report
    rows = [("Emotion recognised", "by voice and face together", _cells(emotion, _TOGETHER, emotion_state))]
    for modality in dict.fromkeys(m for of in identity for m in of):
        cells = _cells(identity, modality, identity_state)
        rows.append(("Person re-identified", f"by {modality}, from one clip", cells))
    titles = [study.title for study in studies]
    shown = (("Emotion recognised", emotion), ("Person re-identified", identity))
    charts = [
        comparison(title, "share of clips", list(zip(titles, figures, strict=True))).inline(f"chart-{index}")
        for index, (title, figures) in enumerate(shown)
    ]
    return render_page(
        "demo.html",
        media=True,
        kind="demonstration",
        name="The same people, hidden in two ways",
        synthetic=first.corpus.synthetic,
        corpus=first.corpus,
        sites=len(first.run.sites),
        held_out=next((t.speakers for t in first.emotion.by_modality().values() if t is not None), 0),
        studies=studies,
        rows=rows,
        charts=charts,
        clips=clips,
        attackers=sorted({r.attacker for study in studies for r in study.report.audit if r.is_whole}),
        command=command,
        version=versions()["moretta"],
    )


def _cells(
    figures: Sequence[Mapping[str, Figure]], modality: str, state: Callable[[Figure], State]
) -> list[tuple[Figure, str, str] | None]:
    """Figure of each study, with the words and the class of its state; None where it has none."""
    return [(of[modality], *state(of[modality])) if modality in of else None for of in figures]
