"""Write a report, and read it back: `report.json` for scripts, `report.html` for people."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from moretta.shared.audit.report.report_schema import FORMAT_VERSION, Report
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError

_log = logging.getLogger(__name__)

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
SCHEMA_JSON = "report.schema.json"
"""The JSON Schema of `report.json`, a file of this package."""
MAX_REPORT_BYTES = 256 * 2**20


class ReportError(ReleaseError):
    """A report is missing, damaged, or of another format."""


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all.

    Both are made in memory before either is written, so a report that cannot be rendered leaves the old files alone.

    Returns:
        The two paths, JSON first.
    """
    from moretta.shared.audit.report.page import render_html  # draws with matplotlib, which a reader does not need

    page = render_html(report)
    content = report.model_dump_json(indent=1) + "\n"
    write_atomic(folder / REPORT_JSON, content)
    write_atomic(folder / REPORT_HTML, page)
    return folder / REPORT_JSON, folder / REPORT_HTML


def write_html(report: Report, folder: Path) -> Path:
    """Write only `report.html`, for a report that was read back."""
    from moretta.shared.audit.report.page import render_html

    write_atomic(folder / REPORT_HTML, render_html(report))
    return folder / REPORT_HTML


def report_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of `report.json`, made from the records of `report_schema`."""
    schema = Report.model_json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Moretta report, {FORMAT_VERSION}"}
    return json.dumps(head | {key: value for key, value in schema.items() if key != "title"}, indent=1) + "\n"


def load_report(folder: Path) -> Report:
    """Read and check `folder/report.json`.

    Raises:
        ReportError: there is none, it is damaged, or it was written in another format.
    """
    path = folder / REPORT_JSON
    content = _parse(path)
    version = content.get("format") if isinstance(content, dict) else None
    if version == 1 and not isinstance(version, bool):
        _log.warning("%s is in report format 1, with names of an earlier version", path)
        content, version = _from_format_1(content), FORMAT_VERSION
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ReportError(
            f"{path} is in report format {version!r}",
            expected=f"format {FORMAT_VERSION}",
            fix="render it with the version of Moretta that wrote it (run.versions names it), or run the study again",
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ReportError(
            f"{path} breaks the report format in {error.error_count()} places, first at "
            f"{'.'.join(str(part) for part in first['loc']) or 'the top'}: {first['msg']}",
            expected=f"a report.json of format {FORMAT_VERSION} as Moretta wrote it",
            fix="restore the file, or run the study again",
        ) from error


_SCENARIO_OF_SOURCE = {"original": "unprotected", "released": "semi-informed"}
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
    for part, former, convert in (
        ("audit", "audit", _from_audit_row),
        ("inference", "beyond", _from_finding),
        ("utility", "judged", _from_utility_row),
    ):
        rows = content.get(former, [])
        known = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        found[part] = [convert(dict(row)) for row in rows] if known else rows
    return found


def _from_audit_row(row: dict[str, Any]) -> dict[str, Any]:
    row["invalid"] = row.pop("void", False)
    return row


def _from_finding(row: dict[str, Any]) -> dict[str, Any]:
    source = row.pop("source", "")
    row["scenario"] = _SCENARIO_OF_SOURCE.get(source, source)
    if row.get("attack") == "inversion" and source == "released":
        row["scenario"] = "ignorant"
    row["speakers"] = row.pop("people", 0)
    return _from_audit_row(row)


def _from_utility_row(row: dict[str, Any]) -> dict[str, Any]:
    value, sides = row.pop("uar", None), (row.pop("trained_on", ""), row.pop("judged_on", ""))
    who = {"attacker": row.pop("judge", ""), "scenario": _SCENARIO_OF_TRAINING.get(sides, "")}
    what = {"attack": "utility", "target": "emotion", "metric": "uar", "value": value, "invalid": value is None}
    return row | who | what


def _parse(path: Path) -> Any:
    fix = "name the folder given to `moretta simulate --out`"
    try:
        size = path.stat().st_size
        if size > MAX_REPORT_BYTES:
            raise ReportError(f"{path} has {size} bytes", expected=f"at most {MAX_REPORT_BYTES}", fix=fix)
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}", expected="a finished study", fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not valid JSON: {error}", expected="JSON in UTF-8", fix=fix) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
