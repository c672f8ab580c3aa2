"""Files of this folder run side by side; tests that share a deployment or a study stay in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
for folder in (Path(__file__).parent, TESTS / "server"):  # `servers`, and `ports` and `offices` under it
    sys.path.insert(0, str(folder))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            shared = item.path.parent.name if item.path.parent.name == "deployment" else item.path.stem
            item.add_marker(pytest.mark.xdist_group(shared))
