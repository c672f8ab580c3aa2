"""Render a report as one HTML file that loads nothing: no script, no font, no address outside the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from moretta.shared.audit.report import figures, forest, inference_view, summary, tradeoff, utility_view, view, wording
from moretta.shared.audit.report.report_schema import AuditRow, Report
from moretta.shared.core.printable import shown
from moretta.shared.core.toml_text import to_toml


def render_html(report: Report) -> str:
    """The whole page.

    Every text of the report is escaped by the template or, inside figures, by `svg`; the content security policy
    allows one style sheet, by its hash, and nothing else.
    """
    return render_page(
        "template.html",
        r=report,
        data_file="report.json",
        headlines=report.headline,
        without_originals=report.run.deployment,
        what_was_run=summary.what_was_run(report),
        how_it_ran=summary.how_it_ran(report),
        sites_missed=any(site.missed for site in report.run.sites),
        findings=summary.findings(report),
        key_figures=summary.key_figures(report),
        audit=view.audit_view(report.audit),
        inference=inference_view.inference_view(report.inference),
        utility=utility_view.evaluator_lines(report.utility),
        budget=view.budget_view(report.privacy),
        study_toml=to_toml(report.run.study),
        has_three_class=any(x and x.three_class for x in report.emotion.by_modality().values()),
        dropped=sum(drop.count for drop in report.corpus.dropped),
        **_drawings(report),
    )


def render_page(template: str, **content: Any) -> str:
    """One of the package's pages, with its style sheet inside and a policy that allows nothing else."""
    style = _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            **content,
        )
    )


def draw_forests(rows: Sequence[AuditRow]) -> dict[str, Markup | None]:
    """The plot of all attackers of each modality."""
    return {
        modality: _drawn(
            forest.forest_plot(
                [row for row in rows if row.modality == modality],
                name=f"forest-{index}",
                title=f"Re-identification from {modality}, by attacker",
            )
        )
        for index, modality in enumerate(dict.fromkeys(row.modality for row in rows))
    }


def _drawings(report: Report) -> dict[str, Any]:
    gate = report.run.study.get("gate")
    limit = gate.get("max_epsilon") if isinstance(gate, dict) else None
    limit = float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None
    results = {m: result for m, result in report.emotion.by_modality().items() if result is not None}
    return {
        "confusions": {
            modality: _drawn(
                figures.confusion_matrix(
                    result, name=f"confusion-{modality}", title=f"Confusion matrix, {wording.modality_label(modality)}"
                )
            )
            for modality, result in results.items()
        },
        "forests": draw_forests(report.audit),
        "tradeoff": _drawn(tradeoff.tradeoff_plot(report.emotion, report.audit, name="tradeoff-plot")),
        "epsilon_plot": _drawn(figures.epsilon_over_rounds(report.privacy, name="epsilon-plot", limit=limit)),
    }


def _drawn(drawing: str | None) -> Markup | None:
    return None if drawing is None else Markup(drawing)  # noqa: S704 - svg.py escapes every text and attribute


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=wording.percent,
        figure=wording.figure,
        interval=wording.interval,
        epsilon=wording.epsilon,
        memory=wording.format_bytes,
        seconds=wording.format_seconds,
        modality=wording.modality_label,
        metric=lambda name: wording.metric_label(name).label,
        drop_reason=lambda code: wording.DROP_REASONS.get(code, ""),
    )
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
