"""Files that a command writes are readable by the account that ran it alone, wherever they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moretta.shared.core.atomic import write_atomic


def _moretta(*arguments: object, folder: Path) -> None:
    command = [sys.executable, "-m", "moretta.deploy.cli.main", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, umask=0o022, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def _open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077]


def test_releases_and_corpora_made_under_a_lax_umask_are_readable_by_their_owner_alone(
    tmp_path: Path, tiny_corpus: Path
) -> None:
    _moretta("anonymize", "--corpus", tiny_corpus, "--out", tmp_path / "deep" / "out", folder=tmp_path)
    assert (tmp_path / "deep" / "out").is_dir()
    assert _open_to_others(tmp_path / "deep") == []


def test_what_is_written_by_name_is_private_whatever_the_umask(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["simulate", "study run", "audit", "anonymize", "site review", "sweep", "choose"])
def test_every_command_begins_in_the_one_place_that_closes_files_to_others(command: str) -> None:
    """Children inherit it: Flower's processes, Ray's, and the jobs of a sweep."""
    code = "import os; from moretta.deploy.cli import main as cli; "
    code += "cli.run = lambda _: print(oct(os.umask(0))) or 0; cli.main(%r)"
    made = subprocess.run(
        [sys.executable, "-c", code % command.split()], umask=0, capture_output=True, text=True, check=True, timeout=60
    )
    assert made.stdout.strip() == "0o77"
