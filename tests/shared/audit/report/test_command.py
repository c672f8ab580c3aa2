from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from moretta.deploy.cli.study import report
from moretta.shared.audit.report.report_file import ReportError, write_report

app = typer.Typer()
app.command()(report)


def test_page_is_rendered_again_and_the_headline_printed(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 0
    assert (tmp_path / "report.html").is_file()
    assert result.output.startswith("SYNTHETIC INPUT")
    assert "Verdict: fails" in result.output
    assert "would re-identify 6 from one clip" in result.output


def test_json_headline(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    content = json.loads(CliRunner().invoke(app, [str(tmp_path), "--json"]).output)
    assert content["synthetic"] is True
    assert content["gate"]["verdict"] == "fails"
    assert [part["modality"] for part in content["headline"]] == ["voice", "face"]
    assert content["headline"][0]["figures"][0]["value"] == 0.562


def test_folder_without_report_is_a_clear_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(result.exception, ReportError)
    with pytest.raises(ReportError, match="finished study"):
        raise result.exception


def test_the_schema_is_printed_without_a_folder() -> None:
    printed = json.loads(CliRunner().invoke(app, ["--schema"]).output)
    assert printed["properties"]["format"]["const"] == 2
    assert CliRunner().invoke(app, []).exit_code == 2
