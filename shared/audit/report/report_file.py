"""Write a report, and read it back: `report.json` for scripts, `report.html` for people."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from moretta.shared.audit.report.report_schema import FORMAT_VERSION, Report
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.audit.score_files import load_scores
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.printable import printable
from moretta.shared.core.terms import MODALITIES
from moretta.shared.study.sections import GateSection

_log = logging.getLogger(__name__)

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
SCHEMA_JSON = "report.schema.json"  # the JSON Schema of `report.json`, a file of this package
MAX_REPORT_BYTES = 256 * 2**20
_SHOWN = 300
"""Characters of what a damaged report says: it may come from a server that wants to fill a site's log."""


class ReportError(ReleaseError):
    """A report is missing, damaged, or of another format."""


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all.

    Both are made in memory before either is written, so a report that cannot be rendered leaves the old files alone.
    """
    from moretta.shared.audit.report.page import render_html  # draws with matplotlib, which a reader does not need

    page = render_html(report, load_scores(folder))
    write_atomic(folder / REPORT_JSON, report.model_dump_json(indent=1) + "\n")
    write_atomic(folder / REPORT_HTML, page)


def write_html(report: Report, folder: Path) -> Path:
    """Write only `report.html`, for a report that was read back."""
    from moretta.shared.audit.report.page import render_html

    write_atomic(folder / REPORT_HTML, render_html(report, load_scores(folder)))
    return folder / REPORT_HTML


def report_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of `report.json`, made from the records of `report_schema`."""
    schema = Report.model_json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Moretta report, {FORMAT_VERSION}"}
    return json.dumps(head | {key: value for key, value in schema.items() if key != "title"}, indent=1) + "\n"


def load_report(folder: Path) -> Report:
    """Read and check `folder/report.json`. Raises ReportError: there is none, it is damaged, or it was written in
    another format."""
    path, again = folder / REPORT_JSON, "restore the file, or run the study again"
    fix = "correct the path to the folder given to `moretta simulate --out`"
    try:
        if (size := path.stat().st_size) > MAX_REPORT_BYTES:
            raise ReportError(f"{path} has {size} bytes", expected=f"at most {MAX_REPORT_BYTES}", fix=fix)
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}", expected="a finished study", fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not valid JSON: {error}", expected="JSON in UTF-8", fix=again) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version == 1 and version is not True:
        _log.warning("%s is in report format 1, with names of an earlier version", path)
        try:
            content, version = _from_format_1(content), FORMAT_VERSION
        except TypeError as error:
            raise ReportError(
                f"{path} is no report of format 1", expected="one as Moretta wrote it", fix=again
            ) from error
    if version != FORMAT_VERSION:
        found = f"{path} is in report format {printable(repr(version), most=_SHOWN)}"
        fix = "render it with the version of Moretta that wrote it (run.versions), or run the study again"
        raise ReportError(found, expected=f"format {FORMAT_VERSION}", fix=fix)
    expected = f"format {FORMAT_VERSION} as Moretta wrote it"
    try:
        return _with_verdict(Report.model_validate(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(f"{'.'.join(map(str, first['loc'])) or 'the top'}: {first['msg']}", most=_SHOWN)
        found = f"{path} breaks the report format in {error.error_count()} places, first at {where}"
        raise ReportError(found, expected=expected, fix=again) from error
    except RecursionError as error:  # one that was read just so, and is too deep for the checks
        raise ReportError(f"{path} is nested too deeply", expected=expected, fix=again) from error


def _with_verdict(report: Report) -> Report:
    """A report from before there were verdicts gets one, by the criteria of today."""
    if report.gate.criteria or not report.headline:
        return report
    gate, audit, absent = report.run.study.get("gate"), report.run.study.get("audit"), report.emotion.absent
    limits = GateSection.model_validate(gate if isinstance(gate, dict) else {})
    resamples = audit.get("bootstrap") if isinstance(audit, dict) else None
    found = check_gate(
        limits,
        headlines(report.audit, report.emotion),  # its own says nothing of which attackers were compared
        report.privacy,
        released=[m for m in MODALITIES if m not in absent],
        resamples=resamples if isinstance(resamples, int) else 0,
    )
    kept = {"passed": report.gate.passed, "broken": report.gate.broken}
    return report.model_copy(update={"gate": found.model_copy(update=kept)})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_SCENARIO_OF_TRAINING = {
    ("original", "original"): "unprotected",
    ("public", "original"): "unprotected",
    ("released", "released"): "semi-informed",
    ("original", "released"): "ignorant",
    ("public", "released"): "ignorant",
}
"""By what a utility evaluator was trained on, and tested on."""


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """A report of format 1 in the form of format 2, in which every figure of an audit is one kind of record."""
    found = {key: value for key, value in content.items() if key not in ("beyond", "judged")} | {"format": 2}
    for part, former in (("audit", "audit"), ("inference", "beyond"), ("utility", "judged")):
        rows = content.get(former, [])
        known = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        found[part] = [_from_row_1(part, dict(row)) for row in rows] if known else rows
    return found


def _from_row_1(part: str, row: dict[str, Any]) -> dict[str, Any]:
    if part == "utility":
        value, sides = row.pop("uar", None), (row.pop("trained_on", ""), row.pop("judged_on", ""))
        row |= {"attacker": row.pop("judge", ""), "scenario": _SCENARIO_OF_TRAINING.get(sides, "")}
        return row | {
            "attack": "utility",
            "target": "emotion",
            "metric": "uar",
            "value": value,
            "invalid": value is None,
        }
    if part == "inference":
        source = row.pop("source", "")
        scenarios = {"original": "unprotected", "released": "semi-informed"}
        if row.get("attack") == "inversion":
            scenarios["released"] = "ignorant"
        row |= {"scenario": scenarios.get(source, source), "speakers": row.pop("people", 0)}
    return row | {"invalid": row.pop("void", False)}
