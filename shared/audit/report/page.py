"""Render the report of a study, or of an audit alone, as one HTML file that loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from moretta.shared.audit.report import charts, summary, tables, wording
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.audit.result import Result
from moretta.shared.core.printable import shown, to_toml
from moretta.shared.core.reproducibility import versions


def render_html(report: Report) -> str:
    """The whole page.

    Every text of the report is escaped by the template or, inside charts, by `plotting`; the content security policy
    allows one style sheet, by its hash, and nothing else.
    """
    run, emotion = report.run, {m: result for m, result in report.emotion.by_modality().items() if result is not None}
    gate = run.study.get("gate")
    limit = gate.get("max_epsilon") if isinstance(gate, dict) else None
    limit = float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None
    tradeoff = charts.tradeoff(report.emotion, report.audit)
    epsilon_plot = charts.epsilon_over_rounds(report.privacy, limit=limit)
    return render_page(
        "template.html",
        r=report,
        data_file="report.json",
        headlines=report.headline,
        without_originals=run.deployment,
        audit=tables.identity_parts(report.audit),
        inference=tables.inference_tables(report.inference),
        utility=tables.evaluator_lines(report.utility),
        budget=tables.budget_tables(report.privacy),
        study_toml=to_toml(run.study),
        has_three_class=any(result.three_class for result in emotion.values()),
        confusions={
            modality: charts.confusion_matrix(
                result, title=f"Confusion matrix, {wording.modality_label(modality)}"
            ).inline(f"confusion-{modality}")
            for modality, result in emotion.items()
        },
        forests=draw_forests(report.audit),
        tradeoff=None if tradeoff is None else tradeoff.inline("tradeoff-plot"),
        epsilon_plot=None if epsilon_plot is None else epsilon_plot.inline("epsilon-plot"),
    )


def render_audit(
    rows: Sequence[Result],
    findings: Sequence[Result],
    utility: Sequence[Result],
    *,
    name: str,
    seed: int,
    command: str,
    originals: bool = True,
    unused: Sequence[tuple[str, int]] = (),
) -> str:
    """The page of an audit alone.

    Args:
        name: what was attacked, as the reader knows it.
        originals: whether originals were given, on which attackers can be checked.
        unused: clips left out, by reason.
    """
    parts, leaks = summary.headlines(rows, None), tables.inference_sentence(findings)
    sentences = [summary.identity_sentence(part, without_originals=not originals) for part in parts]
    return render_page(
        "audit.html",
        name=name,
        seed=seed,
        command=command,
        unused=unused,
        version=versions()["moretta"],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        data_file="audit.json",
        headlines=parts,
        without_originals=not originals,
        findings=[*sentences, *([leaks] if leaks else []), *summary.utility_sentences(utility)],
        audit=tables.identity_parts(rows),
        inference=tables.inference_tables(findings),
        utility=tables.evaluator_lines(utility),
        forests=draw_forests(rows),
    )


def render_page(template: str, **content: Any) -> str:
    """One of the package's pages, with its style sheet inside and a policy that allows nothing else."""
    style = _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    page = _environment().get_template(template)
    return page.render(style=Markup(style), policy=policy, **content)  # noqa: S704 - our own file


def draw_forests(rows: Sequence[Result]) -> dict[str, Markup | None]:
    """The chart of all attackers of each modality."""
    found: dict[str, Markup | None] = {}
    for index, modality in enumerate(dict.fromkeys(row.modality for row in rows)):
        mine = [row for row in rows if row.modality == modality]
        chart = charts.attacker_forest(mine, title=f"Re-identification from {modality}, by attacker")
        found[modality] = None if chart is None else chart.inline(f"forest-{index}")
    return found


def _extent(results: Sequence[Result]) -> str:
    """Speakers and clips that results of one attacker stand on."""
    speakers, clips = max(r.speakers for r in results), max(r.clips for r in results)
    return f"{speakers} / {clips:,}" if clips else str(speakers)


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
    w = wording
    formats = (w.percent, w.figure, w.interval, w.epsilon, w.format_bytes, w.format_seconds, w.modality_label)
    environment.filters |= {function.__name__: function for function in (*formats, w.metric_label)}
    environment.filters |= {"extent": _extent, "drop_reason": lambda code: w.DROP_REASONS.get(code, "")}
    environment.globals |= {"tables": tables, "summary": summary}
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
