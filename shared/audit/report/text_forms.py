"""A report as CSV, one line a figure, and its first page as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moretta.shared.audit.report import plain_words, summary, verdict
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.audit.result import Result
from moretta.shared.core.printable import printable, to_csv

_MARKUP = re.compile(r"[\\`*_\[\]<>|#~&]|^[-+]|(?<=:)/(?=/)|(?i:(?<=www)\.)")
"""The last two begin a link where there is no markup."""


def as_csv(report: Report) -> str:
    """Every figure of the audit, of inference attacks and of utility evaluators; empty is null."""
    fields = [name for name in Result.model_fields if name != "by_speaker"]
    rows = (row.model_dump(mode="json") for row in (*report.audit, *report.inference, *report.utility))
    return to_csv(fields, ([row[name] for name in fields] for row in rows))


def as_markdown(report: Report) -> str:
    """Verdict, plain sentences, what epsilons are worth, and what was not tested."""
    name = report.run.study.get("name", report.corpus.name)
    first = ["**SYNTHETIC INPUT: these figures say nothing about people.**", ""] if report.corpus.synthetic else []
    meanings = plain_words.epsilon_meanings(report.privacy)
    lines = [
        *first,
        f"# {escaped(str(name))}",
        "",
        f"**{verdict.title(report.gate)}.** {verdict.meaning(report.gate)}",
        "",
        *(f"- {c.state}: {escaped(verdict.sentence(c))}" for c in report.gate.criteria),
        "",
        *(f"- {escaped(sentence)}" for sentence in summary.findings(report)),
        "",
        "| mechanism | for a | epsilon | in words | right of 100 guesses |",
        "|---|---|---|---|---|",
        *(f"| {escaped(mechanism)} | {' | '.join(m)} |" for mechanism, of in meanings.items() for m in of),
        "",
        *(["With the seed of this run its noise can be subtracted.", ""] if report.run.seeded_noise else []),
        "Not tested:",
        "",
        *(f"- {escaped(sentence)}" for sentence in plain_words.untested(report)),
    ]
    return "\n".join(lines) + "\n"


def escaped(text: object) -> str:
    r"""Text from elsewhere as text in Markdown: no markup, no link, no new line, no cell.

    >>> print(escaped("a|b\n# <b> http://x"))
    a\|b\\n\# \<b\> http:\//x
    """
    return _MARKUP.sub(r"\\\g<0>", printable(text).strip())


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table in Markdown; an empty cell shows as a dash."""
    lines = [[escaped(cell) or "–" for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *lines)]
