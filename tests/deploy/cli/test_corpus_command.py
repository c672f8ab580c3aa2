import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moretta.deploy.cli.corpus import app
from moretta.shared.core.errors import CorpusError, ExitCode

runner = CliRunner()


def synth(folder: Path, *options: str) -> None:
    arguments = ["synth", str(folder), "--speakers", "1", "--clips", "2", "--no-video", *options]
    runner.invoke(app, arguments, catch_exceptions=False)


def test_a_made_corpus_passes_its_check(tmp_path: Path) -> None:
    synth(tmp_path / "made")
    result = runner.invoke(app, ["check", str(tmp_path / "made")])
    assert result.exit_code == ExitCode.OK
    assert result.stdout.startswith("SYNTHETIC corpus") and "0 files cannot be used" in result.stdout


def test_json_goes_to_stdout_alone(tmp_path: Path) -> None:
    made = runner.invoke(
        app, ["synth", str(tmp_path / "made"), "--speakers", "1", "--clips", "1", "--no-video", "--json"]
    )
    assert json.loads(made.stdout)["clips"] == 1
    checked = runner.invoke(app, ["check", str(tmp_path / "made"), "--json"])
    report = json.loads(checked.stdout)
    assert report["ok"] and report["synthetic"] and report["clips"] == 1


def test_an_unusable_file_makes_the_check_exit_4_and_is_listed(tmp_path: Path) -> None:
    synth(tmp_path / "made")
    (tmp_path / "made/AudioWAV/1001_TIE_SAD_XX.wav").write_bytes(b"broken")
    result = runner.invoke(app, ["check", str(tmp_path / "made")])
    assert result.exit_code == ExitCode.CORPUS
    assert "AudioWAV/1001_TIE_SAD_XX.wav  unreadable" in result.stdout


def test_a_folder_that_cannot_be_a_corpus_raises_for_the_caller_to_report(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        runner.invoke(app, ["check", str(tmp_path)], catch_exceptions=False)
