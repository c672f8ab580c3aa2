"""Render the report of a study, or of an audit alone, as one HTML file that loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.report import charts, plain_words, score_charts, summary, tables, verdict, wording
from moretta.shared.audit.report.plotting import Chart
from moretta.shared.audit.report.report_schema import GatePart, Report
from moretta.shared.audit.result import Result
from moretta.shared.audit.score_files import Key
from moretta.shared.core.printable import shown, to_toml
from moretta.shared.core.reproducibility import versions

Scores = Mapping[Key, Trials]


def render_html(report: Report, scores: Scores | None = None) -> str:
    """The whole page, with curves where the scores of comparisons are there.

    Every text of the report is escaped by the template or, inside charts, by `plotting`; the content security policy
    allows one style sheet, by its hash, and nothing else.
    """
    run, emotion = report.run, {m: result for m, result in report.emotion.by_modality().items() if result is not None}
    gate = run.study.get("gate")
    limit = gate.get("max_epsilon") if isinstance(gate, dict) else None
    limit = float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None
    confusions = {
        m: charts.confusion_matrix(result, title=f"Confusion matrix, {wording.modality_label(m)}")
        for m, result in emotion.items()
    }
    return render_page(
        "template.html",
        kind="study report",
        name=run.study.get("name", report.corpus.name),
        synthetic=report.corpus.synthetic,
        r=report,
        gate=report.gate,
        audit=identity(report.audit, scores or {}),
        inference=tables.inference_tables(report.inference),
        utility=tables.evaluator_lines(report.utility),
        content=tables.content_lines(report.utility),
        budget=tables.budget_tables(report.privacy),
        meanings=plain_words.epsilon_meanings(report.privacy),
        trained_epsilon=tables.trained_epsilon(report.privacy),
        untested=plain_words.untested(report),
        emotion_rows=_emotion_rows(report),
        study_toml=to_toml(run.study),
        confusions={m: chart.inline(f"confusion-{m}") for m, chart in confusions.items()},
        reliability=_drawn(charts.reliability(report.emotion), "reliability"),
        tradeoff=_drawn(charts.tradeoff(report.emotion, report.audit, "top1"), "tradeoff-plot"),
        epsilon_plot=_drawn(charts.epsilon_over_rounds(report.privacy, limit=limit), "epsilon-plot"),
    )


def _emotion_rows(report: Report) -> list[dict[str, Any]]:
    """Results by output, or why there is none; then the central check and the models of public people."""
    rows: list[dict[str, Any]] = [
        {
            "label": wording.modality_label(name),
            "result": result,
            "note": "" if result is not None else f"Absent: {report.emotion.absent[name]}",
        }
        for name, result in report.emotion.by_modality().items()
    ]
    if report.emotion_central is not None:
        rows.append({"label": "Voice, central check", "result": report.emotion_central, "note": ""})
    for modality, start in report.emotion_public.items():
        rows.append(
            {
                "label": f"{wording.modality_label(modality)}, public people alone",
                "result": start.result,
                "note": f"before the first round, by {summary.of_public_people(start)}",
            }
        )
    return rows


def render_audit(
    rows: Sequence[Result],
    findings: Sequence[Result],
    utility: Sequence[Result],
    *,
    gate: GatePart,
    scores: Scores | None = None,
    name: str,
    seed: int,
    command: str,
    synthetic: bool = False,
    originals: bool = True,
    unused: Sequence[tuple[str, int]] = (),
) -> str:
    """The page of an audit alone.

    Args:
        name: what was attacked, as the reader knows it.
        synthetic: whether the clips were made by a program.
        originals: whether originals were given, on which attackers can be checked.
        unused: clips left out, by reason.
    """
    parts, leaks = summary.headlines(rows, None), tables.inference_sentence(findings)
    sentences = summary.identity_sentences(parts, rows, without_originals=not originals)
    return render_page(
        "audit.html",
        kind="audit",
        name=name,
        synthetic=synthetic,
        gate=gate,
        seed=seed,
        command=command,
        unused=unused,
        version=versions()["moretta"],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        without_originals=not originals,
        findings=[*sentences, *([leaks] if leaks else []), *summary.utility_sentences(utility)],
        audit=identity(rows, scores or {}),
        inference=tables.inference_tables(findings),
        utility=tables.evaluator_lines(utility),
        content=tables.content_lines(utility),
    )


def identity(rows: Sequence[Result], scores: Scores) -> list[dict[str, Any]]:
    """Re-identification by modality, as the template places it, with its charts."""
    parts = tables.identity_parts(rows)
    for index, part in enumerate(parts):
        modality = part["modality"]
        of = wording.modality_label(modality)
        if found := part["people"]:
            chart = charts.people(found["shares"], chance=found["best"].chance, title=f"People by risk, {of}")
            found["chart"] = _drawn(chart, f"people-{index}")
        best = score_charts.strongest_by_scenario(rows, scores, modality)
        part["det"] = _drawn(score_charts.det_curves(best, scores, title=f"DET curves, {of}"), f"det-{index}")
        part["histogram"] = None
        if (worst := summary.strongest([r for r in best.values() if not r.is_anchor], "eer")) is not None:
            trials = scores[modality, worst.scenario, worst.attacker]
            part["histogram"] = score_charts.histogram(worst, trials, title=f"Scores, {of}").inline(f"scores-{index}")
    return parts


def _drawn(chart: Chart | None, name: str) -> Markup | None:
    return None if chart is None else chart.inline(name)


def render_page(template: str, *, media: bool = False, more_style: str = "", **content: Any) -> str:
    """One of the package's pages, with its style sheet inside and a policy that allows nothing else.

    `more_style` are rules of this page alone, made here and of no text of a report. With `media` the policy also allows
    sound and pictures that stand in the page itself, as `data:` addresses.
    """
    style = _asset("style.css") + more_style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    if media:
        policy += "; img-src data:; media-src data:"
    page = _environment().get_template(template)
    return page.render(style=Markup(style), policy=policy, **content)  # noqa: S704 - our own file


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
    environment.globals |= {"tables": tables, "summary": summary, "verdict": verdict, "invalid_mark": w.INVALID}
    environment.globals |= {"scenarios": w.SCENARIOS, "metrics": w.METRICS}
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
