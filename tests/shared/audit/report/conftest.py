from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markupsafe import Markup

from moretta.shared.audit.report import charts
from moretta.shared.audit.report.plotting import Chart

_DRAWN: dict[str, Chart | None] = {}
_INLINE: dict[tuple[int, str], Markup] = {}


@pytest.fixture(autouse=True)
def _each_chart_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of these tests differ in their words, and a drawing takes a quarter of a second."""
    inline = Chart.inline

    def drawn_once(name: str) -> Any:
        draw = getattr(charts, name)

        def drawn(*arguments: Any, **options: Any) -> Chart | None:
            key = repr((name, arguments, options))
            if key not in _DRAWN:
                _DRAWN[key] = draw(*arguments, **options)
            return _DRAWN[key]

        return drawn

    def inline_once(self: Chart, prefix: str) -> Markup:
        key = (id(self), prefix)  # charts stay, and so do their ids, in `_DRAWN`
        if key not in _INLINE:
            _INLINE[key] = inline(self, prefix)
        return _INLINE[key]

    for name in ("confusion_matrix", "people", "tradeoff", "epsilon_over_rounds"):
        monkeypatch.setattr(charts, name, drawn_once(name))
    monkeypatch.setattr(Chart, "inline", inline_once)


@pytest.fixture(scope="session")
def example() -> ModuleType:
    """Builds reports; see example.py."""
    spec = importlib.util.spec_from_file_location("report_example", Path(__file__).with_name("example.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
