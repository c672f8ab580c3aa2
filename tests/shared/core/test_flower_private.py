"""Flower may rename what it calls private: this names everything that Moretta relies on."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from moretta.shared.core import flower_private

ROOT = Path(flower_private.__file__).parents[2]


@pytest.mark.parametrize("name", flower_private.names())
def test_every_private_name_of_flower_is_where_it_was(name: str) -> None:
    assert getattr(flower_private, name) is not None


def test_no_other_module_imports_what_flower_calls_private() -> None:
    public = {"app", "clientapp", "serverapp", "simulation"}
    found = []
    for part in ("server", "client", "shared", "deploy"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found += [path.name for n in names if n.startswith("flwr.") and n.split(".")[1] not in public]
    assert set(found) <= {"flower_private.py"}


def test_what_is_used_of_objects_is_still_there() -> None:
    from flwr.app import Metadata
    from flwr.superlink.grid.http_grid import HttpGrid

    assert isinstance(inspect.getattr_static(HttpGrid, "_runtime_client"), property)
    assert "_message_id" in inspect.getsource(Metadata)
    for call in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert call in inspect.getsource(HttpGrid)
    assert {"_run_id", "_node_id", "_task_id"} <= vars(flower_private.TaskIdentity).keys()


def test_importing_it_loads_nothing_of_flower() -> None:
    code = "import sys, moretta.shared.core.flower_private; assert not any(m.startswith('flwr') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_error_that_names_the_table() -> None:
    with pytest.raises(AttributeError, match="not in the table of Flower's private names"):
        _ = flower_private.something_else
