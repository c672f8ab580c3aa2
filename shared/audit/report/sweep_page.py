"""The files of a sweep: JSON and CSV for scripts, the drawing, and one page for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.curves import curve_plot
from moretta.shared.audit.report.curves_file import draw_curves
from moretta.shared.audit.report.html import render_page
from moretta.shared.audit.report.sweep_rows import SweepReport, SweepRow, as_csv
from moretta.shared.audit.report.sweep_view import cell_text, epsilon_text, groups
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.toml_text import to_toml

SWEEP_JSON, SWEEP_CSV, SWEEP_HTML = "sweep.json", "sweep.csv", "sweep.html"
CURVES = "curves"


def write_sweep(report: SweepReport, folder: Path) -> None:
    """Write all files, each whole or not at all. All are made in memory before the first is written."""
    page = render_sweep(report)
    drawn = draw_curves(report.rows, title=report.name)
    for form, content in drawn.items():
        write_atomic(folder / f"{CURVES}.{form}", content)
    write_atomic(folder / SWEEP_CSV, as_csv(report.rows))
    write_atomic(folder / SWEEP_JSON, report.model_dump_json(indent=1) + "\n")
    write_atomic(folder / SWEEP_HTML, page)


def render_sweep(report: SweepReport) -> str:
    """One HTML file that loads nothing."""
    parts = []
    for number, ((corpus, modality), rows) in enumerate(groups(report.rows).items()):
        label = f"{wording.modality_label(modality)}, {corpus}"
        plot = curve_plot(rows, name=f"curves-{number}", title=f"Emotion recognition and re-identification: {label}")
        drawing = None if plot is None else Markup(plot)  # noqa: S704 - svg.py escapes every text and attribute
        curves = {name: [r for r in rows if r.curve == name] for name in dict.fromkeys(r.curve for r in rows)}
        parts.append({"label": label, "plot": drawing, "curves": curves, "chances": _chances(rows)})
    return render_page(
        "sweep.html",
        s=report,
        findings=findings(report),
        parts=parts,
        epsilon_text=epsilon_text,
        cell_text=cell_text,
        format_count=wording.format_count,
        failed=[row for row in report.rows if row.failed],
        grid_toml=to_toml(report.grid),
        seeds=sorted({seed for row in report.rows for seed in row.seeds}),
    )


def findings(report: SweepReport) -> list[str]:
    """What a reader should take away, worst news included."""
    sentences = []
    for (corpus, modality), rows in groups(report.rows).items():
        label = f"{wording.modality_label(modality)}, {corpus}"
        known = [row for row in rows if row.uar is not None]
        if not known:
            sentences.append(f"{label}: no cell has an emotion figure.")
            continue
        best = max(known, key=lambda row: row.uar or 0.0)
        sentences.append(
            f"{label}: emotion is recognised best by {_named(best)}, with a UAR of "
            f"{_summary(best.uar, best.uar_low, best.uar_high)} where guessing gives {wording.percent(best.uar_chance)}"
            f"{_of_trials(best)}."
        )
        hidden = [row for row in known if row.eer is not None and row.eer_chance is not None]
        safest = max(hidden, key=lambda row: row.eer or 0.0, default=None)
        if safest is not None:
            verdict = "" if _above_chance(safest) else " That is not distinguishable from guessing the emotion."
            sentences.append(
                f"{label}: people are hidden best by {_named(safest)}, with an EER of "
                f"{_summary(safest.eer, safest.eer_low, safest.eer_high)} where 50 % is no information; emotion is "
                f"then "
                f"recognised with a UAR of {_summary(safest.uar, safest.uar_low, safest.uar_high)}.{verdict}"
            )
    if failed := [row for row in report.rows if row.failed]:
        sentences.append(
            f"{wording.format_count(len(failed), 'row')} failed: what figures are missing, and why, is below the table."
        )
    return sentences


def _of_trials(row: SweepRow) -> str:
    if row.top1 is None:
        return "; nothing is known of how well people are then re-identified"
    shown = _summary(row.top1, row.top1_low, row.top1_high)
    return f"; the strongest attacker then names the right person in {shown} of trials"


def _above_chance(row: SweepRow) -> bool:
    return row.uar_low is not None and row.uar_chance is not None and row.uar_low > row.uar_chance


def _named(row: SweepRow) -> str:
    return f"“{row.curve}”{f' at {cell_text(row)}' if row.settings else ''}"


def _summary(value: float | None, low: float | None, high: float | None) -> str:
    return f"{wording.percent(value)} {wording.interval(low, high)}".strip()


def _chances(rows: Sequence[SweepRow]) -> str:
    """Against what the figures of one table are to be read."""
    row = next((r for r in rows if r.uar_chance is not None), None)
    if row is None:
        return ""
    parts = [f"emotion {wording.percent(row.uar_chance)}"]
    parts += [f"top-1 {wording.percent(row.top1_chance)}"] if row.top1_chance is not None else []
    parts += [f"EER {wording.percent(row.eer_chance)}"] if row.eer_chance is not None else []
    people, clips = (
        wording.format_count(row.test_speakers, "tested speaker"),
        wording.format_count(row.test_clips, "clip"),
    )
    return f"Guessing gives {', '.join(parts)}. {people}, {clips}."
