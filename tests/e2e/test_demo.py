"""`moretta demo` with real processes: figures of its page come from its runs, and a second call runs nothing again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moretta.shared.audit.report.report_file import load_report
from moretta.shared.audit.report.wording import percent

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
MORETTA = Path(sys.executable).parent / "moretta"


def test_the_demonstration_compares_two_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [str(MORETTA), "demo", "--out", "demo", "--json"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    facts, page = json.loads(first.stdout), (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert list(facts["studies"]) == ["original-project", "protected"]
    for folder, found in facts["studies"].items():
        report = load_report(tmp_path / "demo" / folder)
        top1 = {h.modality: f.value for h in report.headline for f in h.figures if f.metric == "top1"}
        assert {m: figure["value"] for m, figure in found["identity"].items()} == top1 != {}
        assert all(percent(value) in page for value in top1.values())
        assert report.emotion.fused and percent(report.emotion.fused.uar) in page
        assert f"{folder}/report.html" in page
    assert page.count("<audio") == 4 and page.count("<img") == 3 + 2 * 3 * 4

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stderr.count("nothing is left to do") == 2 and "clips" not in again.stderr
    assert json.loads(again.stdout)["studies"] == facts["studies"]
