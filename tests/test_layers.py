"""The import contracts of pyproject.toml hold, and nothing is unpickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("shared", "server", "client", "deploy")


def test_the_import_contracts_are_kept() -> None:
    """`[tool.importlinter]`: deploy -> server | client -> shared, and the layers inside shared."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 broken" in done.stdout


def test_no_module_imports_relatively() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for part in PARTS
        for path in (ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not wrong


def test_nothing_is_unpickled_and_no_shell_is_used() -> None:
    risky = ("pickle.load", "allow_pickle=True", "shell=True", "weights_only=False")
    own = [p for part in PARTS for p in (ROOT / part).rglob("*.py")]
    assert own
    assert not {f"{p}: {word}" for p in own for word in risky if word in p.read_text(encoding="utf-8")}
