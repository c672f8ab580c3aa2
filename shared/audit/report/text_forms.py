"""A report as CSV, one line a figure, and its first page as Markdown."""

from __future__ import annotations

import csv
import io

from moretta.shared.audit.report import plain_words, summary, verdict
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.audit.result import Result
from moretta.shared.core.printable import printable


def as_csv(report: Report) -> str:
    """Every figure of the audit, of inference attacks and of utility evaluators; empty is null."""
    fields, buffer = [name for name in Result.model_fields if name != "by_speaker"], io.StringIO()
    writer = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in (*report.audit, *report.inference, *report.utility):
        writer.writerow(row.model_dump(mode="json"))
    return buffer.getvalue()


def as_markdown(report: Report) -> str:
    """Verdict, plain sentences, what epsilons are worth, and what was not tested."""
    name = report.run.study.get("name", report.corpus.name)
    first = ["**SYNTHETIC INPUT: these figures say nothing about people.**", ""] if report.corpus.synthetic else []
    meanings = plain_words.epsilon_meanings(report.privacy)
    lines = [
        *first,
        f"# {_escaped(str(name))}",
        "",
        f"**{verdict.title(report.gate)}.** {verdict.meaning(report.gate)}",
        "",
        *(f"- {c.state}: {_escaped(verdict.sentence(c))}" for c in report.gate.criteria),
        "",
        *(f"- {_escaped(sentence)}" for sentence in summary.findings(report)),
        "",
        "| mechanism | for a | epsilon | in words | right of 100 guesses |",
        "|---|---|---|---|---|",
        *(f"| {_escaped(mechanism)} | {' | '.join(m)} |" for mechanism, of in meanings.items() for m in of),
        "",
        *(["With the seed of this run its noise can be subtracted.", ""] if report.run.seeded_noise else []),
        "Not tested:",
        "",
        *(f"- {_escaped(sentence)}" for sentence in plain_words.untested(report)),
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text from elsewhere as text: no markup, no new line, no cell."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in printable(text))
