"""Imports run one way: deploy -> server, client -> shared."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "shared": ("moretta.server", "moretta.client", "moretta.deploy"),
    "server": ("moretta.client", "moretta.deploy"),
    "client": ("moretta.server", "moretta.deploy"),
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_upward_or_sideways(layer: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / layer).rglob("*.py")
        for name in _imports(path)
        if name.startswith(FORBIDDEN[layer])
    }
    assert not wrong


def test_nothing_is_unpickled_and_no_shell_is_used() -> None:
    risky = ("pickle.load", "allow_pickle=True", "shell=True", "weights_only=False")
    own = [p for layer in (*FORBIDDEN, "deploy") for p in (ROOT / layer).rglob("*.py")]
    assert own
    assert not {f"{p}: {word}" for p in own for word in risky if word in p.read_text(encoding="utf-8")}
