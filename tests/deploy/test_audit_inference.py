from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moretta.deploy.cli.audit import invalid_targets
from moretta.deploy.cli.main import app
from moretta.deploy.runtime.audit_folder import audit_folder
from moretta.shared.audit.inference import inversion
from moretta.shared.audit.inference.attack_all import without_figures


@pytest.fixture(autouse=True)
def no_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inversion, "ENCODERS", {"voice": (), "face": ()})
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "cache"))


def test_audit_json_holds_what_was_found_beyond_identity(tiny_corpus: Path, tmp_path: Path) -> None:
    flat = tiny_corpus / "AudioWAV"
    options = {"corpus": None, "key": None, "attackers": ["voice-logistic"], "bootstrap": 0, "workers": 1}
    found = audit_folder(flat, out=tmp_path / "with", **options)  # type: ignore[arg-type]
    written = json.loads((tmp_path / "with" / "audit.json").read_text())["inference"]
    assert len(written) == len(found.findings) and {f["attack"] for f in written} == {"attribute", "inversion"}
    without = audit_folder(flat, out=tmp_path / "without", inference=False, **options)  # type: ignore[arg-type]
    assert not without.findings and without.rows == found.rows
    assert json.loads((tmp_path / "without" / "audit.json").read_text())["inference"] == []


@pytest.mark.parametrize("requested", [True, False])
def test_the_command_prints_a_short_table_unless_turned_off(tiny_corpus: Path, tmp_path: Path, requested: bool) -> None:
    copy = tmp_path / "wavs"
    shutil.copytree(tiny_corpus / "AudioWAV", copy)
    arguments = ["audit", str(copy), "--attackers", "voice-logistic", "--bootstrap", "0", "--workers", "1"]
    arguments += ["--out", str(tmp_path / "out"), *(() if requested else ("--no-inference",))]
    reported = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False).stdout
    assert ("inversion" in reported) == requested and ("no originals" in reported) == requested


def test_an_invalid_target_is_listed_once_with_its_first_reason() -> None:
    about = without_figures("updates", "voice", "sex", "updates")
    rows = [about.invalidated(why) for why in ("first", "second")]
    assert invalid_targets(rows) == {("updates", "voice", "sex"): "first"}
